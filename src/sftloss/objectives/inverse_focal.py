from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("inverse_focal(gamma=1)",), neutral="inverse_focal(gamma=0)"))
def inverse_focal(stats: TokenStats, *, gamma: float = 1.0) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy that grows as the target becomes certain: the opposite of focal.

    .. math:: \ell_i = -(1 + p_i)^\gamma \log p_i, \qquad p_i = p(\text{target}_i)

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        gamma: Exponent, dimensionless, ``>= 0``. ``0`` is cross-entropy.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `gamma` is negative or not finite.

    Gradient:
        Flows through both factors: cross-entropy's times :math:`(1 + p)^\gamma + \gamma p (1 + p)^{\gamma-1} \log p`.
        At gamma = 1 it is 1 at p = 0, at least 0.86, near p = 0.14, and 2 at p = 1.

    Helps:
        Where confidence is repaired afterwards: its paper argues that over-confidence is easier to calibrate, by a
        temperature fitted on held-out data, than what regularizers leave.

    Harms:
        Calibration without that step, and diversity: it sharpens. It acts in part as a larger learning rate.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> inverse_focal(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), gamma=1.0)
        tensor([0.2387])

    Source:
        Wang et al., *Rethinking Calibration of Deep Neural Networks: Do Not Be Afraid of Overconfidence*, NeurIPS 2021,
        section 5.2. For language models it is a ``loss_type`` of qlora-pipe (github.com/tdrussell/qlora-pipe/pull/29).
    """
    check_range("inverse_focal", gamma=(gamma, ">= 0"))
    return -((1 + stats.target_logprob.exp()) ** gamma) * stats.target_logprob
