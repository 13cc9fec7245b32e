from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import log_of_rest
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("dco(samples=8)",), neutral="dco(samples=1)"))
def dco(stats: TokenStats, *, samples: int = 8) -> Float[Tensor, " tokens"]:
    r"""Direct coverage: the chance that at least one of N samples is the target.

    .. math:: \ell_i = -\log(1 - (1 - p_i)^N), \qquad p_i = p(\text{target}_i)

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        samples: The N above, samples drawn at test time, ``>= 1``. ``1`` is cross-entropy.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `samples` is below 1.

    Gradient:
        Cross-entropy's times :math:`N p (1 - p)^{N-1} / (1 - (1 - p)^N)`: 1 where p is small, and it fades once N
        samples nearly surely contain the target. At N = 8 it is 0.83 at p = 0.05 and 0.03 at p = 0.5.

    Helps:
        Where many samples are drawn and one has to be right (pass@N): confidence beyond what N samples need costs
        diversity. Its paper reports that cross-entropy lowers pass@N as training goes on, and that this loss does not.

    Harms:
        A single sample: targets are left less certain, and over a whole answer the probabilities multiply. Use N = 1
        for that.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> dco(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), samples=8)
        tensor([4.0766e-08])

    Source:
        Chen et al., *Rethinking Fine-Tuning when Scaling Test-Time Compute: Limiting Confidence Improves Mathematical
        Reasoning*, 2025 (arXiv:2502.07154). There p is the probability of a whole answer; here it is that of each
        token, which limits confidence token by token.
    """
    check_range("dco", samples=(samples, ">= 1"))
    log_p = stats.target_logprob
    tiny = log_p < -60  # there the chance is N p to all digits, and p itself may have underflowed
    log_chance = log_of_rest(samples * log_of_rest(torch.where(tiny, -1.0, log_p)))
    return torch.where(tiny, -log_p - math.log(samples), -log_chance)
