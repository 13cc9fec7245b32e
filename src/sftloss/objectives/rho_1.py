from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import read_extra
from sftloss.objectives.record import SHARE_OF_A_BATCH, ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("rho_1",), extras=("reference_logprob",), refused={"share": SHARE_OF_A_BATCH}))
def rho_1(stats: TokenStats, *, threshold: float = 0.0) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy on the tokens that a better reference model finds easier than the model in training.

    .. math:: \ell_i = -[\log p^r_i - \log p_i \ge t] \log p_i

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``reference_logprob`` of the batch, the target's under the
            reference model, shape ``(tokens,)``, in nats.
        threshold: The t above, lowest excess of the model's loss over the reference's that is trained, in nats.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `threshold` is not finite.
        KeyError: If the batch does not hold ``reference_logprob``.

    Gradient:
        Cross-entropy's on the tokens that are kept, exactly 0 on the others. The model's own probability decides, so
        the choice moves as it learns.

    Helps:
        In continued pre-training on noisy text, for which it was made: tokens that even a good model cannot predict,
        and those already learned, are left out.

    Harms:
        With a reference that is no better on this data: it then leaves out what is to be learned. The share of tokens
        kept is not fixed; count it, and choose `threshold` from the data's quantiles.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> extras = {"reference_logprob": torch.tensor([-1.0])}
        >>> rho_1(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras))
        tensor([0.])

    Source:
        Lin et al., *Rho-1: Not All Tokens Are What You Need*, 2024, selective language modelling (arXiv:2404.07965). It
        keeps the top share of a batch by this excess loss; here a threshold stands for the share. The share's threshold
        is known only after the forward passes of all micro-batches on all ranks, so it would cost a second one.
    """
    check_range("rho_1", threshold=(threshold, "any number"))
    log_p = stats.target_logprob
    excess = read_extra(stats, "rho_1", "reference_logprob") - log_p
    return torch.where(excess >= threshold, -log_p, 0.0)
