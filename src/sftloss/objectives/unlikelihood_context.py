from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import where_counted
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(
        examples=("unlikelihood_context",),
        neutral="unlikelihood_context(alpha=0)",
        extras=("candidate_ids",),
        made="context",
    )
)
def unlikelihood_context(stats: TokenStats, *, alpha: float = 1.0) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy, and a penalty on candidates such as the tokens that stand before: against repetition.

    .. math:: \ell_i = -\log p_i - \alpha \sum_c \log(1 - p_{ic})

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``candidate_logprob``, in nats, of the ``candidate_ids``
            of the batch, ``(tokens, K)``: the c above, each id once, -100 for none, without the target.
            :func:`sftloss.objectives.context_candidates` makes them of the tokens before.
        alpha: Weight of the penalty, dimensionless, ``>= 0``. ``0`` is cross-entropy.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `alpha` is negative or not finite.
        KeyError: If the batch does not hold ``candidate_ids``.

    Gradient:
        Cross-entropy's, and for each candidate :math:`\alpha \frac{p_c}{1 - p_c} (e_c - p)`. Where :math:`p_c` is above
        1 - 1e-5 it is cut off.

    Helps:
        Repetition in greedy text: words of the context that are not the target are pushed down.

    Harms:
        Where words have to recur, as names, code and numbers do: the target is never a candidate, yet its neighbours in
        the text are. The candidates of a long context are many; keep those of the last tokens.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> extras = {"candidate_ids": torch.tensor([[1, -100]])}
        >>> unlikelihood_context(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras))
        tensor([0.2539])

    Source:
        Welleck et al., *Neural Text Generation with Unlikelihood Training*, 2019, the token level with the previous
        context tokens as candidates (arXiv:1908.04319). Its code takes the whole context, and keeps 1 - p at or above
        1e-5, as here.
    """
    check_range("unlikelihood_context", alpha=(alpha, ">= 0"))
    p = stats.candidate_logprob.exp().clamp(max=1 - 1e-5)
    penalty = -torch.log1p(-p).sum(dim=1)
    return where_counted(stats, alpha * penalty) - stats.target_logprob
