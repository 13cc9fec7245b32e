from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("ael(a=2)",)))
def ael(stats: TokenStats, *, a: float = 2.0) -> Float[Tensor, " tokens"]:
    r"""Asymmetric exponential loss: an exponential of the target's probability.

    .. math:: \ell_i = e^{-p_i / a} - e^{-1 / a}

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        a: Width, dimensionless, ``> 0``. A large one has the shape of ``gce(q=1)``.

    Returns:
        Loss of each token, shape ``(tokens,)``, ``>= 0``. Neither weighted nor reduced. Not comparable with
        cross-entropy.

    Raises:
        ValueError: If `a` is not above 0 or not finite.

    Gradient:
        Cross-entropy's times :math:`\frac{p}{a} e^{-p / a}`.

    Helps:
        Wrong labels, as ``aul`` and ``agce`` of the same paper.

    Harms:
        New material, which is unlikely at first, is hardly learned.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> ael(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([0.0372])

    Source:
        Zhou et al., *Asymmetric Loss Functions for Learning with Noisy Labels*, 2021, AEL (arXiv:2106.03110). There
        without the constant that makes it 0 at p = 1; the default is ours.
    """
    check_range("ael", a=(a, "> 0"))
    return torch.exp(-stats.target_logprob.exp() / a) - math.exp(-1 / a)
