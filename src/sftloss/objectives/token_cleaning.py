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
    ObjectiveRecord(
        examples=("token_cleaning",), extras=("reference_logprob", "old_logprob"), refused={"share": SHARE_OF_A_BATCH}
    )
)
def token_cleaning(stats: TokenStats, *, threshold: float = 0.0) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy on the tokens that fine-tuning a reference model has made likelier.

    .. math:: \ell_i = -[\log p^r_i - \log p^{old}_i \ge t] \log p_i

    Args:
        stats: Token statistics; reads ``target_logprob``, and of the batch ``reference_logprob`` and ``old_logprob``,
            the target's under the reference and under the base model that the reference was fine-tuned from, each of
            shape ``(tokens,)``, in nats.
        threshold: The t above, lowest fall of the loss from base to reference that is trained, in nats.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `threshold` is not finite.
        KeyError: If the batch does not hold one of the two.

    Gradient:
        Cross-entropy's on the tokens that are kept, exactly 0 on the others. Two fixed models decide, so the choice
        does not move in training, unlike in ``rho_1`` and ``ss_token``.

    Helps:
        With long answers that are partly boilerplate: tokens that a model fine-tuned on trusted data does not predict
        better than the base model are left out.

    Harms:
        With a reference that learned little: noise decides which tokens are kept. What the reference has not learned is
        not trained. The share of tokens kept is not fixed; choose `threshold` from the data's quantiles.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> extras = {"reference_logprob": torch.tensor([-1.0]), "old_logprob": torch.tensor([-2.0])}
        >>> token_cleaning(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras))
        tensor([0.1269])

    Source:
        Pang et al., *Token Cleaning: Fine-Grained Data Selection for LLM Supervised Fine-Tuning*, 2025
        (arXiv:2502.01968), with a fixed reference. Its code keeps the top 0.6 of the tokens, of all data or of each
        sample, by this difference of losses; a share mixes tokens, so here a threshold stands for it.
    """
    check_range("token_cleaning", threshold=(threshold, "any number"))
    reference = read_extra(stats, "token_cleaning", "reference_logprob")
    fall = reference - read_extra(stats, "token_cleaning", "old_logprob")
    return torch.where(fall >= threshold, -stats.target_logprob, 0.0)
