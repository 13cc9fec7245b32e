from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import complement
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("dice(gamma=1)",)))
def dice(stats: TokenStats, *, gamma: float = 1.0) -> Float[Tensor, " tokens"]:
    r"""One minus the smoothed Dice coefficient of the target's probability.

    .. math:: \ell_i = 1 - \frac{2 p_i + \gamma}{p_i + 1 + \gamma}, \qquad p_i = p(\text{target}_i)

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        gamma: Smoothing, dimensionless, ``>= 0``.

    Returns:
        Loss of each token, shape ``(tokens,)``, dimensionless, in ``[0, 1 / (1 + gamma)]``. Neither weighted nor
        reduced.

    Raises:
        ValueError: If `gamma` is negative or not finite.

    Gradient:
        Cross-entropy's times :math:`p (2 + \gamma) / (p + 1 + \gamma)^2`, nearly proportional to p for a large gamma.
        Nothing is detached.

    Helps:
        Unbalanced tagging and reading comprehension, for which its paper proposes it: a class is scored by overlap, not
        by likelihood. We know of no such evidence for fine-tuning language models.

    Harms:
        As ``dft`` does, whose gate it resembles: new material is hardly learned.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> dice(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), gamma=1.0)
        tensor([0.0414])

    Source:
        Li et al., *Dice Loss for Data-imbalanced NLP Tasks*, 2020, the soft form for one token (arXiv:1911.02855). Its
        self-adjusting factor :math:`(1 - p)^\alpha` is left out: differentiated, it turns the gate negative above p = 1
        / (1 + alpha), and targets there are unlearned. Its code has alpha = 0 by default too.
    """
    check_range("dice", gamma=(gamma, ">= 0"))
    return complement(stats.target_logprob) / (stats.target_logprob.exp() + 1 + gamma)
