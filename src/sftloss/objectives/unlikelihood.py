from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import finite, read_extra
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("unlikelihood",), extras=("is_negative",), made="marks"))
def unlikelihood(stats: TokenStats, *, alpha: float = 1.0) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy, and on the tokens marked as wrong its mirror: push their probability down.

    .. math:: \ell_i = -(1 - n_i) \log p_i - \alpha n_i \log(1 - p_i)

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``other_logprob``, in nats, and ``is_negative`` of the
            batch, the n above: 1 on a token to avoid, 0 elsewhere, shape ``(tokens,)``.
        alpha: Weight of the marked tokens, dimensionless, ``>= 0``. ``0`` gives them no gradient; they
            still count in Z.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `alpha` is negative or not finite.
        KeyError: If the batch does not hold ``is_negative``.

    Gradient:
        Cross-entropy's; on a marked token cross-entropy's times :math:`-\alpha p / (1 - p)`. It fades as p goes to 0,
        whereas a negative weight pushes an unlikely token down without end.

    Helps:
        Known mistakes inside otherwise good answers: invented facts, repetitions, unsafe spans. Lower `alpha` to
        balance them.

    Harms:
        Where the marks are coarse: it lowers every token of a marked span, correct words included, and the probability
        goes wherever the model puts it.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> extras = {"is_negative": torch.tensor([1.0])}
        >>> unlikelihood(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras))
        tensor([2.1269])

    Source:
        Welleck et al., *Neural Text Generation with Unlikelihood Training*, 2019, the unlikelihood of a negative
        candidate (arXiv:1908.04319). There the candidates are earlier tokens of the context; here they are the marked
        targets.
    """
    check_range("unlikelihood", alpha=(alpha, ">= 0"))
    is_negative = read_extra(stats, "unlikelihood", "is_negative") > 0.5
    return -torch.where(is_negative, alpha * finite(stats.other_logprob), stats.target_logprob)
