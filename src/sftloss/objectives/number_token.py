from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import read_extra, where_counted
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(
        examples=("number_token", "number_token(convention='paper')"),
        neutral="number_token(weight=0)",
        extras=("candidate_ids", "candidate_value", "target_value"),
        made="numbers",
    )
)
def number_token(stats: TokenStats, *, weight: float = 0.3, convention: str = "package") -> Float[Tensor, " tokens"]:
    r"""Cross-entropy, and for numbers their distance: 8 is a smaller mistake than 2 where 9 is right.

    .. math:: \ell_i = -\log p_i + \lambda ( \sum_k p_{ik} |v_{ik} - v_i| + 1.01 D_i (1 - \sum_k p_{ik}) )

    D is the largest distance between two candidates. The bracket is 0 where the target is no number.

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``candidate_logprob``, in nats, of the ``candidate_ids``
            of the batch, the ids of all number tokens, ``(tokens, K)``; with the numbers they stand for,
            ``candidate_value``, ``(tokens, K)``, and that of the target, ``target_value``, ``(tokens,)``, NaN where it
            is no number.
        weight: The lambda above, dimensionless, ``>= 0``. ``0`` is cross-entropy.
        convention: ``"package"`` as above. ``"paper"``: the candidates' probabilities are renormalized to a sum of 1,
            so text tokens cost nothing.

    Returns:
        Loss of each token, shape ``(tokens,)``, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `weight` is negative or not finite, or `convention` is unknown.
        KeyError: If the batch does not hold one of the three.

    Gradient:
        Cross-entropy's plus lambda :math:`p_k (b_k - B)` at each token, with b its distance and B the mean of b over
        p; a token that is no number has the distance 1.01 D.

    Helps:
        Arithmetic and regression in text, at tokenizers whose number tokens are single digits.

    Harms:
        Where digits are no quantities, as in dates, versions and identifiers: set their ``target_value`` to NaN. With
        several digits a token the distances are large, so lower the weight.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> ids, values = torch.tensor([[0, 1]]), torch.tensor([[8.0, 9.0]])
        >>> extras = {"candidate_ids": ids, "candidate_value": values, "target_value": torch.tensor([9.0])}
        >>> number_token(from_logits(torch.tensor([[0.0, 0.0]]), torch.tensor([1]), extras=extras))
        tensor([0.8431])

    Source:
        Zausinger et al., *Regress, Don't Guess: A Regression-like Loss on Number Tokens for Language Models*, 2024, the
        Wasserstein form (arXiv:2411.02083). The package ntloss adds the second summand by default
        (``reweigh=True``), the paper does not. The package averages its term over the number tokens and advises a
        weight of 0.3; here the term is divided as cross-entropy is, so where a tenth of the tokens are numbers, its 0.3
        is 3.
    """
    check_range("number_token", weight=(weight, ">= 0"))
    if convention not in ("package", "paper"):
        raise ValueError(f"number_token: convention must be 'package' or 'paper', got {convention!r}.")
    values = read_extra(stats, "number_token", "candidate_value")
    own = read_extra(stats, "number_token", "target_value")
    distance = (values - own.nan_to_num()[:, None]).abs()
    if convention == "package":
        p, span = stats.candidate_logprob.exp(), values.amax(dim=1) - values.amin(dim=1)
        penalty = (p * distance).sum(dim=1) + 1.01 * span * (1 - p.sum(dim=1)).clamp(min=0)
    else:
        penalty = (stats.candidate_logprob.softmax(dim=1) * distance).sum(dim=1)
    return where_counted(stats, weight * torch.where(own.isnan(), 0.0, penalty)) - stats.target_logprob
