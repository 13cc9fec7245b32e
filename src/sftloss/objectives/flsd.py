from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.reading import finite
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("flsd",)))
def flsd(stats: TokenStats) -> Float[Tensor, " tokens"]:
    r"""Focal loss whose exponent depends on the token: 5 for unlikely targets, 3 for the others.

    .. math:: \ell_i = -(1 - p_i)^{\gamma_i} \log p_i, \qquad \gamma_i = 3 + 2 [p_i < 0.2]

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``other_logprob``, shape ``(tokens,)``, in nats.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Gradient:
        That of ``focal`` with the token's own exponent. The step of the exponent at p = 0.2 is not differentiated.

    Helps:
        Calibration without a number to tune: its paper chooses the two exponents so that confidence stops where it
        should, and reports lower calibration errors than cross-entropy and label smoothing, for images and short texts.

    Harms:
        Likely targets: at p = 0.9 the gate is 0.004, so what is nearly learned stays nearly learned, and over a long
        answer the probabilities multiply. With noisy data it puts its weight on what the model doubts, as ``focal``
        does.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> flsd(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([0.0002])

    Source:
        Mukhoti et al., *Calibrating Deep Neural Networks using Focal Loss*, 2020, FLSD-53 (arXiv:2002.09437).
    """
    gamma = 3 + 2 * (stats.target_logprob < math.log(0.2)).to(stats.target_logprob.dtype)
    return -torch.exp(gamma * finite(stats.other_logprob)) * stats.target_logprob
