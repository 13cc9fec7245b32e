from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import finite, read_extra, where_counted
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(
        examples=("gift(beta=20)",),
        neutral="gift(beta=10000)",
        extras=("reference_logprob", "candidate_ids", "reference_candidate_logprob", "candidate_is_target"),
    )
)
def gift(stats: TokenStats, *, beta: float = 20.0) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy against the reference model's prediction with its target made likelier by a factor.

    .. math:: \ell_i = -\sum_g q_{ig} \log p_{ig}, \qquad q_i = \operatorname{softmax}(\log p^r_i + \beta e_y)

    The groups g are the target, the reference's K likeliest other tokens, each by itself, and all others together.

    Args:
        stats: Token statistics; reads ``target_logprob``, ``other_logprob`` and ``candidate_logprob``, in nats, of the
            ``candidate_ids`` of the batch, ``(tokens, K)``, and of the batch ``reference_logprob``, ``(tokens,)``,
            ``reference_candidate_logprob`` and ``candidate_is_target``, ``(tokens, K)``: the reference's
            log-probabilities of target and candidates in nats, and which candidate is the target. Id -100 is none.
            ``sftloss reference --top-k K`` makes all of them.
        beta: Gain of the target's logit, in nats, ``>= 0``. ``0`` is distillation from the reference, a large one
            cross-entropy.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced. Its lowest value is
        the entropy of q.

    Raises:
        ValueError: If `beta` is negative or not finite.
        KeyError: If the batch does not hold one of the tensors.

    Gradient:
        :math:`p - q`, where q shares what it gives to all other tokens as the model does.

    Helps:
        A better start for reinforcement learning, as its paper reports: what the reference holds likely beside the
        target is kept in proportion.

    Harms:
        Targets that the reference rules out are learned slowly: at the default gain, those below a probability of
        exp(-20) = 2e-9. All others get a q near 1, so there it differs little from cross-entropy; lower `beta` to
        keep more.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> extras = {"candidate_ids": torch.tensor([[1]]), "candidate_is_target": torch.tensor([[False]])}
        >>> extras |= {"reference_logprob": torch.tensor([-2.3])}
        >>> extras |= {"reference_candidate_logprob": torch.tensor([[-0.11]])}
        >>> gift(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras), beta=2)
        tensor([1.2567])

    Source:
        Zhao et al., *GIFT: Reconciling Post-Training Objectives via Finite-Temperature Gibbs Initialization*, 2026,
        algorithm 1 (arXiv:2601.09233), over the whole vocabulary; its code adds 1e-10 to the reference's
        probabilities, which is not followed.
    """
    check_range("gift", beta=(beta, ">= 0"))
    none, tiny = torch.finfo(stats.target_logprob.dtype).min, torch.finfo(stats.target_logprob.dtype).eps
    is_other = (stats.candidate_logprob > -1e4) & (read_extra(stats, "gift", "candidate_is_target") == 0)
    log_p = torch.where(is_other, stats.candidate_logprob, none)
    log_r = torch.where(is_other, read_extra(stats, "gift", "reference_candidate_logprob"), none)
    of_target = read_extra(stats, "gift", "reference_logprob")
    rest_p = (stats.other_logprob.exp() - log_p.exp().sum(dim=1)).clamp(min=tiny).log()
    rest_r = (1 - of_target.exp() - log_r.exp().sum(dim=1)).clamp(min=tiny).log()
    q = torch.cat([(of_target + beta)[:, None], log_r, rest_r[:, None]], dim=1).softmax(dim=1)
    log_p = torch.cat([finite(stats.target_logprob)[:, None], log_p, rest_p[:, None]], dim=1)
    return where_counted(stats, -(q * log_p).sum(dim=1))
