from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import finite
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("tailr(gamma=0.1)",), neutral="tailr(gamma=0)", is_detached=True))
def tailr(stats: TokenStats, *, gamma: float = 0.1, floor: float = 0.0) -> Float[Tensor, " tokens"]:
    r"""Total variation guided: a weight that falls only where p is small against gamma.

    .. math:: \ell_i = -\operatorname{sg}(\frac{p_i}{\gamma + (1 - \gamma) p_i}) \log p_i

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        gamma: Where the weight falls, dimensionless, in ``[0, 1]``. ``0`` is cross-entropy, ``1`` is ``dft``.
        floor: Lowest weight of a token, in ``[0, 1]``.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `gamma` or `floor` is outside ``[0, 1]``.

    Gradient:
        Cross-entropy's times the weight, which is not differentiated. The weight is 1 at p = 1 and about p / gamma
        where p is far below gamma.

    Helps:
        With noisy references: the weight bounds what one impossible target can do, and tokens of ordinary probability
        keep nearly their whole gradient. Its code uses gamma = 0.8 for summaries and 0.1 for translation.

    Harms:
        Where unlikely targets are right: at gamma = 0.1 a target with p = 0.001 gets a hundredth of the gradient. The
        useful gamma differs by task by orders of magnitude: tune it.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> tailr(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), gamma=0.5)
        tensor([0.1189])

    Source:
        Ji et al., *Tailoring Language Generation Models under Total Variation Distance*, 2023 (arXiv:2302.13344). The
        `floor` is its code's ``density_min_weight``, 0 there too unless set; its scripts set 0.2 for summaries and 0.3
        for translation.
    """
    check_range("tailr", gamma=(gamma, "in [0, 1]"), floor=(floor, "in [0, 1]"))
    log_p = finite(stats.target_logprob)
    fixed = log_p.detach()
    log_gamma, log_rest = (math.log(share) if share else -math.inf for share in (gamma, 1 - gamma))
    # log(gamma + (1 - gamma) p): in p itself, 0 / 0 where p underflows and gamma is 0
    weight = torch.exp(fixed - torch.logaddexp(torch.full_like(fixed, log_gamma), fixed + log_rest))
    return -weight.clamp(min=floor) * log_p
