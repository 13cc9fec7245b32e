from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import read_extra
from sftloss.objectives.record import SHARE_OF_A_BATCH, ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(examples=("ss_token",), extras=("reference_logprob",), refused={"share": SHARE_OF_A_BATCH})
)
def ss_token(stats: TokenStats, *, threshold: float = 0.0) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy on the tokens whose loss has fallen since an earlier model of the same run.

    .. math:: \ell_i = -[\log p_i - \log p^r_i \ge t] \log p_i

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``reference_logprob`` of the batch, the target's under the
            reference model, shape ``(tokens,)``, in nats. The reference is the model before fine-tuning, or an earlier
            one of the run.
        threshold: The t above, lowest fall of the loss that is trained, in nats.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `threshold` is not finite.
        KeyError: If the batch does not hold ``reference_logprob``.

    Gradient:
        Cross-entropy's on the tokens that are kept, exactly 0 on the others.

    Helps:
        Where no better reference model exists: what the run itself has found learnable goes on being learned. It is the
        opposite choice of ``rho_1``, whose reference is ahead of the model.

    Harms:
        At the start, where model and reference agree: noise decides which tokens are kept. What has fallen once is
        trained further, what has not is never tried again.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> extras = {"reference_logprob": torch.tensor([-1.0])}
        >>> ss_token(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras))
        tensor([0.1269])

    Source:
        Qin et al., *ssToken: Self-modulated and Semantic-aware Token Selection for LLM Fine-tuning*, 2025
        (arXiv:2510.18250), its retrospective excess loss. Its code keeps a share of 0.6 of each answer by
        half this number, scaled to [0, 1], and half the attention that a token pays to the prompt; here the first half
        alone, with a threshold, since a share mixes tokens.
    """
    check_range("ss_token", threshold=(threshold, "any number"))
    log_p = stats.target_logprob
    fall = log_p - read_extra(stats, "ss_token", "reference_logprob")
    return torch.where(fall >= threshold, -log_p, 0.0)
