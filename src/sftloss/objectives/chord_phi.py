from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.reading import finite
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("chord_phi",), is_detached=True))
def chord_phi(stats: TokenStats) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy times p (1 - p): targets that are neither learned nor unlikely.

    .. math:: \ell_i = -\operatorname{sg}(p_i (1 - p_i)) \log p_i, \qquad p_i = p(\text{target}_i)

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced. At most 0.26; not
        comparable with cross-entropy.

    Gradient:
        Cross-entropy's times :math:`p (1 - p)`, at most 0.25; the weight is not differentiated. Tune the learning rate
        with it.

    Helps:
        As the demonstration half of reinforcement learning from the model's own answers, where its paper uses it: it
        keeps expert data from pulling the policy far in one step.

    Harms:
        Alone, new material is hardly learned, as with ``dft``, and targets near p = 1 are left less certain.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> chord_phi(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([0.0133])

    Source:
        Zhang et al., *On-Policy RL Meets Off-Policy Experts: Harmonizing Supervised Fine-Tuning and Reinforcement
        Learning via Dynamic Weighting*, 2025 (arXiv:2508.11408), the token weight :math:`\phi`. ms-swift and
        Trinity-RFT mix it with GRPO by a factor :math:`\mu`; here it is the supervised part alone.
    """
    log_p = finite(stats.target_logprob)
    fixed = log_p.detach()
    return fixed.exp() * torch.expm1(fixed) * log_p
