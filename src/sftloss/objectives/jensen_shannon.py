from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import complement
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("jensen_shannon(weight=0.5)",)))
def jensen_shannon(stats: TokenStats, *, weight: float = 0.5) -> Float[Tensor, " tokens"]:
    r"""Jensen-Shannon divergence between the prediction and the target's one-hot vector.

    .. math:: \ell_i = \frac{\pi D(e, m) + (1 - \pi) D(p, m)}{-(1 - \pi) \log(1 - \pi)},
        \qquad m = \pi e + (1 - \pi) p

    Here e is the one-hot vector of the target, p the prediction and D the Kullback-Leibler divergence.

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        weight: The pi above, weight of the target's vector, between 0 and 1. Near 0 this is cross-entropy, near 1 it
            has the gradient of ``dft``.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced. At most :math:`1 + \pi
        \log \pi / ((1 - \pi) \log(1 - \pi))`.

    Raises:
        ValueError: If `weight` is not between 0 and 1.

    Gradient:
        Cross-entropy's times :math:`p \log(m_y / ((1 - \pi) p)) / (-\log(1 - \pi))`, through everything: 1 at p = 1 and
        about p log(1 / p) where p is small. At pi = 0.5 and p = 0.01 it is 0.067, where ``dft`` has 0.01.

    Helps:
        With wrong labels: the loss is bounded, and between cross-entropy's speed and the robustness of 1 - p it has a
        single number to choose.

    Harms:
        Where unlikely targets are right, as all bounded losses do, though less than ``dft``.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> jensen_shannon(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), weight=0.5)
        tensor([0.1247])

    Source:
        Englesson and Azizpour, *Generalized Jensen-Shannon Divergence Loss for Learning with Noisy Labels*, 2021
        (arXiv:2105.04522), the loss of two distributions. Their third, a second augmented view of the input, has no
        counterpart for tokens.
    """
    check_range("jensen_shannon", weight=(weight, "in (0, 1)"))
    log_p = stats.target_logprob
    p, rest, log_rest = log_p.exp(), complement(log_p), math.log1p(-weight)
    log_m = torch.log1p(-(1 - weight) * rest)  # of m at the target, 1 - (1 - weight) (1 - p)
    of_target = -weight * log_m
    of_prediction = (1 - weight) * (p * (log_p - log_m) - rest * log_rest)
    return (of_target + of_prediction) / (-(1 - weight) * log_rest)
