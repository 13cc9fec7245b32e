from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import finite
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("gold(floor=0.1)",), neutral="gold(floor=1)", is_detached=True))
def gold(stats: TokenStats, *, floor: float = 0.1) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy times the target's own probability, which counts as at least a floor.

    .. math:: \ell_i = -\operatorname{sg}(\max(p_i, u)) \log p_i, \qquad p_i = p(\text{target}_i)

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        floor: The u above, lowest weight of a token, in ``[0, 1]``. ``0`` is ``dft``, ``1`` is cross-entropy.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `floor` is outside ``[0, 1]``.

    Gradient:
        Cross-entropy's times :math:`\max(p, u)`; the weight is not differentiated.

    Helps:
        As ``dft`` does, and unlikely targets still learn, at the rate of the floor. Off-policy reinforcement learning
        from demonstrations is its setting: summaries, questions and translations in its paper.

    Harms:
        As ``dft`` does, less as the floor rises: the gradient of unlikely targets is scaled down by the floor, which
        acts as a smaller learning rate on them.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> gold(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), floor=0.1)
        tensor([0.1118])

    Source:
        Pang and He, *Text Generation by Learning from Demonstrations*, 2020 (arXiv:2009.07839). In its code p is that
        of a slightly older copy of the model, kept at or above ``iw_min``, and a reward from a second model multiplies
        it; here p is the model's own and the reward is 1. Rewards of examples or tokens are weights.
    """
    check_range("gold", floor=(floor, "in [0, 1]"))
    log_p = finite(stats.target_logprob)
    return -log_p.detach().exp().clamp(min=floor) * log_p
