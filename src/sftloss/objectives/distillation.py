from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.reading import finite, read_extra, where_counted
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(
        examples=("distillation", "0.5 * cross_entropy + 0.5 * distillation"),
        extras=("candidate_ids", "reference_candidate_logprob"),
    )
)
def distillation(stats: TokenStats) -> Float[Tensor, " tokens"]:
    r"""Divergence from a teacher's likeliest tokens, or from any label distribution over a few ids.

    .. math:: \ell_i = \sum_k q_{ik} (\log q_{ik} - \log p_{ik}), \qquad q_i = \operatorname{softmax}(t_i)

    Args:
        stats: Token statistics; reads ``candidate_logprob``, in nats, of the ``candidate_ids`` of the batch,
            ``(tokens, K)``, and the t above, ``reference_candidate_logprob`` of the batch, ``(tokens, K)``, in nats:
            the teacher's log-probabilities of these ids, renormalized here. Id -100, or -inf, is none. ``sftloss
            reference --top-k K`` with the teacher as its model makes both.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced. 0 where a token has no
        id.

    Raises:
        KeyError: If the batch does not hold one of the two.

    Gradient:
        :math:`p - q`, with q 0 at every other token: they lose what the teacher's list does not hold.

    Helps:
        Learning from a larger model: the K tokens that it holds likeliest, and how likely, at K numbers a token.
        No teacher has to be in memory. With ids and
        shares of several annotators it learns their disagreement.

    Harms:
        With a short list: the rest of the teacher's distribution counts as 0, so the student gets too certain. Choose K
        so that the list holds 0.95 of the mass. :func:`sftloss.map_logits` computes the divergence of whole
        distributions.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> teacher = torch.tensor([[-0.7, -0.7]])
        >>> extras = {"candidate_ids": torch.tensor([[0, 1]]), "reference_candidate_logprob": teacher}
        >>> distillation(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras))
        tensor([0.4338])

    Source:
        Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015, at temperature 1 (arXiv:1503.02531), from
        the teacher to the student and on its K likeliest tokens.
    """
    teacher, log_p = read_extra(stats, "distillation", "reference_candidate_logprob"), stats.candidate_logprob
    there = torch.where(log_p > -1e4, teacher, float("-inf"))
    some = there.isfinite().any(dim=1, keepdim=True)
    log_q = torch.where(some, there, 0.0).log_softmax(dim=1)
    divergence = torch.where(there.isfinite(), log_q.exp() * (finite(log_q) - log_p), 0.0).sum(dim=1)
    return where_counted(stats, divergence)
