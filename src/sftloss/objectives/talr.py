from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import finite
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(
        examples=("talr",),
        is_detached=True,
        refused={
            "batch": "the median of a batch depends on how the step is cut into micro-batches and ranks; give tau, for "
            "example the median of the rows' mean losses that sftloss analyze shows"
        },
    )
)
def talr(stats: TokenStats, *, tau: float = 1.0, floor: float = 0.0) -> Float[Tensor, " tokens"]:
    r"""Token-adaptive reweighting: cross-entropy times an exponential of its own negative, held fixed.

    .. math:: \ell_i = -\operatorname{sg}(\max(a, e^{\log p_i / \tau})) \log p_i

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        tau: Temperature of the weight, in nats, ``> 0``. Large is nearly cross-entropy, ``1`` is ``dft``.
        floor: The a above, lowest weight, in ``[0, 1]``.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced. Not comparable with
        cross-entropy.

    Raises:
        ValueError: If a number is outside its range.

    Gradient:
        Cross-entropy's times :math:`p^{1/\tau}`, which is not differentiated: the gate of ``gce(q=1/tau)``.

    Helps:
        Forgetting: unlikely targets, whose gradients move the model most, weigh little. Its authors lower the learning
        rate first and add this second.

    Harms:
        New material is hardly learned while it is unlikely. EAFT's paper has it below cross-entropy on its target task
        (table 1: 64.4 against 69.4).

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> talr(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), tau=2.0)
        tensor([0.1191])

    Source:
        Lin et al., *SFT Doesn't Always Hurt General Capabilities: Revisiting Domain-Specific Fine-Tuning in LLMs*, 2025
        (arXiv:2509.20758). There tau is the median of a batch's mean losses; here it is a fixed number.
        The median of a step is known only after the forward passes of all its micro-batches on all ranks, so it would
        cost a second forward pass. No official code was found.
    """
    check_range("talr", tau=(tau, "> 0"), floor=(floor, "in [0, 1]"))
    log_p = finite(stats.target_logprob)
    return -(log_p.detach() / tau).exp().clamp(min=floor) * log_p
