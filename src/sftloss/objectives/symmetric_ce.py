from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("symmetric_ce",), neutral="symmetric_ce(alpha=1, beta=0)"))
def symmetric_ce(
    stats: TokenStats, *, alpha: float = 0.1, beta: float = 1.0, log_zero: float = -9.21
) -> Float[Tensor, " tokens"]:
    r"""Symmetric cross-entropy: a little cross-entropy, and the reverse one, which wrong labels cannot move far.

    .. math:: \ell_i = -\alpha \log p_i - \beta A (1 - p_i)

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        alpha: Weight of cross-entropy, dimensionless, ``>= 0``.
        beta: Weight of the reverse cross-entropy, dimensionless, ``>= 0``. With ``0`` and alpha 1 it is cross-entropy.
        log_zero: The A above, what stands for the logarithm of 0, in nats, in ``[-1000, 0]``.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If a number is outside its range.

    Gradient:
        Cross-entropy's times :math:`\alpha + \beta |A| p`: alpha times that of ``poly_1`` with epsilon
        :math:`\beta |A| / \alpha`.

    Helps:
        Wrong labels: the second summand is bounded, so an unlikely target pulls with alpha only.

    Harms:
        Rare and right targets, whose pull is alpha as well. The gate at p = 1 is 93 times that at p = 0 by default:
        tune the learning rate with it.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> symmetric_ce(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([1.1106])

    Source:
        Wang et al., *Symmetric Cross Entropy for Robust Learning with Noisy Labels*, 2019 (arXiv:1908.06112). The
        defaults are those of its code for CIFAR-10, which clips the label at 1e-4, so A = log 1e-4 = -9.21.
    """
    check_range("symmetric_ce", alpha=(alpha, ">= 0"), beta=(beta, ">= 0"), log_zero=(log_zero, "in [-1000, 0]"))
    return -alpha * stats.target_logprob + beta * log_zero * torch.expm1(stats.target_logprob)
