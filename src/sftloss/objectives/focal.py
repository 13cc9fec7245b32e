from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import finite
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("focal(gamma=2)", "focal(gamma=0.5)"), neutral="focal(gamma=0)"))
def focal(stats: TokenStats, *, gamma: float = 2.0, alpha: float = 1.0) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy that fades as the target becomes certain.

    .. math:: \ell_i = -\alpha (1 - p_i)^\gamma \log p_i, \qquad p_i = p(\text{target}_i)

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``other_logprob``, shape ``(tokens,)``, in nats.
        gamma: Focusing exponent, dimensionless, ``>= 0``. ``0`` is cross-entropy.
        alpha: A plain factor on every token, dimensionless, ``> 0``; ``1`` is no factor. In the paper it differs by
            class and so rebalances them; one number for all tokens only scales the loss.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `gamma` is negative or `alpha` is not positive, or either is not finite.

    Gradient:
        Flows through both factors: cross-entropy's times
        :math:`\alpha [(1-p)^\gamma - \gamma p (1-p)^{\gamma-1} \log p]`, finite for every `gamma`. It
        vanishes as p goes to 1. For :math:`\gamma = 2` it exceeds 1 between p = 0 and about 0.3, so unlikely tokens
        weigh a little more than in cross-entropy.

    Helps:
        Where easy examples outnumber hard ones, as in object detection, for which it was made, and against
        over-confidence (Mukhoti et al., arXiv:2002.09437).

    Harms:
        With noisy data: it puts its weight on what the model doubts. It can leave the model under-confident
        (Tao et al., ICML 2023), since its optimum is not the distribution of the data. `alpha` is one number for all
        tokens, so it scales the loss and with it the learning rate; it balances no classes.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> focal(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), gamma=2.0)
        tensor([0.0018])

    Source:
        Lin et al., *Focal Loss for Dense Object Detection*, 2017 (arXiv:1708.02002). There one
        sigmoid; here one softmax target.
    """
    check_range("focal", gamma=(gamma, ">= 0"), alpha=(alpha, "> 0"))
    # (1-p)^gamma from log(1-p), exact near p = 1; -inf (no other finite logit) times gamma = 0 would be NaN
    log_q = finite(stats.other_logprob)
    return -alpha * torch.exp(gamma * log_q) * stats.target_logprob
