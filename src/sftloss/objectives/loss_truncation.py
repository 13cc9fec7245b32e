from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import finite
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("loss_truncation",)))
def loss_truncation(stats: TokenStats, *, threshold: float = 5.0) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy on the tokens where it is at most a threshold; those above are left out.

    .. math:: \ell_i = -[-\log p_i \le t] \log p_i

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        threshold: The t above, highest loss that is trained, in nats, ``> 0``. A large one is cross-entropy.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, between 0 and `threshold`. Neither weighted nor reduced.

    Raises:
        ValueError: If `threshold` is not above 0 or not finite.

    Gradient:
        Cross-entropy's on the tokens that are kept, exactly 0 on the others: ``profit(low=exp(-t))``.

    Helps:
        Invented or noisy text: what the model cannot predict at all is often wrong in the data.

    Harms:
        New words and formats are what the model cannot predict yet; after a warm-up less of them is lost. ``sftloss
        analyze`` shows how many tokens lie above a threshold.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> loss_truncation(from_logits(torch.tensor([[9.0, 0.0]]), torch.tensor([1])))
        tensor([0.])

    Source:
        Kang and Hashimoto, *Improved Natural Language Generation via Loss Truncation*, 2020 (arXiv:2004.14589). There a
        running quantile of the losses of whole sequences is the threshold, which leaves out 0.4 of them in its code;
        here a number, token by token.
    """
    check_range("loss_truncation", threshold=(threshold, "> 0"))
    losses = -finite(stats.target_logprob)
    return torch.where(losses <= threshold, losses, 0.0)
