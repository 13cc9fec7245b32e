from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import complement
from sftloss.objectives.record import ObjectiveRecord, PublishedLoss
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(
        examples=("profit(low=0.1)", "profit(low=0.3, high=0.7)", "profit(low=0.5, q=1)"),
        neutral="profit(low=0)",
        published=(
            PublishedLoss("1805.07836", "truncated generalized cross-entropy", "profit(low=0.5, q=0.7)"),
            PublishedLoss("2510.00526", "Beyond Log Likelihood: OnlyTopP-0.5", "profit(low=0.5, q=1)"),
            PublishedLoss("2510.00526", "Beyond Log Likelihood: OnlyBottomP-0.5", "profit(low=0, high=0.5, q=1)"),
            PublishedLoss("2510.00526", "Beyond Log Likelihood: OnlyTopLogP-0.5", "profit(low=0.5)"),
        ),
    )
)
def profit(stats: TokenStats, *, low: float = 0.1, high: float = 1.0, q: float = 0.0) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy on the tokens whose probability lies in a range; the others are left out.

    .. math:: \ell_i = -[a \le p_i \le b] \log p_i, \qquad p_i = p(\text{target}_i)

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        low: The a above, lowest probability that is trained, in ``[0, 1]``. ``0`` leaves out none.
        high: The b above, highest probability that is trained, in ``[0, 1]``. ``1`` leaves out none.
        q: Exponent of the loss inside the range, as in ``gce``: ``0`` is cross-entropy, ``1`` is 1 - p.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If a probability is outside ``[0, 1]``, `high` is below `low`, or `q` is negative or not finite.

    Gradient:
        Cross-entropy's times :math:`p^q` inside the range, exactly 0 outside. The probability is that of the model in
        training, so a token enters or leaves as the model changes.

    Helps:
        Where unlikely targets are mostly replaceable wordings: its paper trains on p > 0.1 and reports gains over plain
        fine-tuning on reasoning and mathematics. Leaving out unlikely tokens also forgets less.

    Harms:
        Where there is something to learn. A target below `low` is never trained, so a fact or a format that the model
        finds improbable is not learned at all. Count the tokens that are left out before a long run.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> profit(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), low=0.1)
        tensor([0.1269])

    Source:
        Liu et al., *ProFit: Leveraging High-Value Signals in SFT via Probability-Guided Token Selection*, 2026
        (arXiv:2601.09195). Its code calls the ranges ``higher`` (low=0.1), ``lower`` (low=0, high=0.8) and ``middle``
        (low=0.3, high=0.7). Of the thresholded losses of Li et al. (arXiv:2510.00526), ``OnlyTopP`` and ``OnlyBottomP``
        train 1 - p inside the range, which is q = 1; ``OnlyTopLogP`` and ``OnlyBottomLogP`` train cross-entropy.
    """
    check_range("profit", low=(low, "in [0, 1]"), high=(high, f"in [{low:g}, 1]"), q=(q, ">= 0"))
    log_p = stats.target_logprob
    losses = complement(q * log_p) / q if q else -log_p
    is_trained = (log_p >= (math.log(low) if low else -math.inf)) & (log_p <= (math.log(high) if high else -math.inf))
    return torch.where(is_trained, losses, 0.0)
