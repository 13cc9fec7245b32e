from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import finite
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(
        examples=("idk",), neutral="idk(upper=0)", is_detached=True, extras=("candidate_ids",), made="abstention"
    )
)
def idk(stats: TokenStats, *, upper: float = 0.5, token: str = "IDK") -> Float[Tensor, " tokens"]:
    r"""Cross-entropy that moves part of the target to an "I don't know" token where the model prefers another one.

    .. math:: \ell_i = -(1 - \lambda_i) \log p_i - \lambda_i \log p_{i,\text{idk}}, \qquad
        \lambda_i = u \operatorname{sg}(1 - \frac{p_i}{\max_j p_{ij}})

    Args:
        stats: Token statistics; reads ``target_logprob``, ``max_logprob`` and ``candidate_logprob``, in nats, of the
            ``candidate_ids`` of the batch, ``(tokens, 1)``: the id of the token that abstains.
        upper: The u above, the largest share, in ``[0, 1]``. ``0`` is cross-entropy.
        token: Name of the abstaining token, for commands, which make ``candidate_ids``: ``"IDK"`` is the token
            ``[IDK]``, ``<|IDK|>`` or ``IDK``, an added token before others, one in brackets before one without. Where
            a batch holds the ids, it is not read.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `upper` is outside its range.
        KeyError: If the batch does not hold ``candidate_ids``.

    Gradient:
        :math:`p - (1 - \lambda) e_y - \lambda e_\text{idk}`; lambda is not differentiated. It is 0 where the target is
        the likeliest token.

    Helps:
        Hallucination: the more wrong and certain the model is, the more it learns to abstain. Use a new token, or one
        that the data do not hold, and decode it as a refusal.

    Harms:
        Learning of new facts: those are what the model gets wrong. It may abstain from what it could have learned, so
        measure recall beside precision.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> extras = {"candidate_ids": torch.tensor([[2]])}
        >>> idk(from_logits(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([1]), extras=extras))
        tensor([2.6022])

    Source:
        Cohen et al., *I Don't Know: Explicit Modeling of Uncertainty with an [IDK] Token*, 2024 (arXiv:2412.06676). Its
        code leaves lambda attached to the graph, which changes the gradient; here it is held fixed. The form above is
        its schedule ``adaptive``, with 0.2 for u; by default its code moves a constant 0.1 wherever the model is wrong.
        Its optional penalty on the token where the model is right is left out.
    """
    check_range("idk", upper=(upper, "in [0, 1]"))
    # 0 where the target is the likeliest token itself
    share = -upper * torch.expm1(finite(stats.target_logprob.detach()) - stats.max_logprob).clamp(max=0)
    return -(1 - share) * finite(stats.target_logprob) - share * stats.candidate_logprob[:, 0]
