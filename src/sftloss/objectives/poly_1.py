from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(
        examples=("poly_1(epsilon=1)",),
        neutral="poly_1(epsilon=0)",
    )
)
def poly_1(stats: TokenStats, *, epsilon: float = 1.0) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy with its leading term, 1 - p, re-weighted.

    .. math:: \ell_i = -\log p_i + \varepsilon (1 - p_i), \qquad -\log p = \sum_{k \ge 1} (1 - p)^k / k

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        epsilon: Added to the leading coefficient, dimensionless, ``>= -1``. ``0`` is cross-entropy. Below -1 the
            gate turns negative for certain targets and unlearns them.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `epsilon` is below -1 or not finite.

    Gradient:
        Cross-entropy's times :math:`1 + \varepsilon p`: with a positive `epsilon`, tokens that are
        already right are pushed further.

    Helps:
        Image classification and detection in its paper, with :math:`\varepsilon` tuned for each task. We know of no
        such evidence for the fine-tuning of language models.

    Harms:
        Calibration, if anything: for :math:`\varepsilon > 0` the gate lies between 1 and :math:`1 + \varepsilon`, so
        it acts in part as a larger learning rate on tokens already learned, and sharpens. For
        :math:`\varepsilon = -1` the gate is :math:`1 - p`, which fades as that of focal loss does.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> poly_1(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), epsilon=1.0)
        tensor([0.2461])

    Source:
        Leng et al., *PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions*, 2022, Poly-1:
        :math:`-\log P_t + \varepsilon_1 (1 - P_t)` (arXiv:2204.12511).
    """
    check_range("poly_1", epsilon=(epsilon, ">= -1"))
    # 1 - p as -expm1(log p): as exact near p = 1 as log p is, and 0 where a token is ignored (log p = 0)
    return -stats.target_logprob - epsilon * torch.expm1(stats.target_logprob)
