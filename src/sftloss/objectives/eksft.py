from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import candidates_and_rest, divergence, read_extra, where_counted
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("eksft",), extras=("candidate_ids", "reference_candidate_logprob")))
def eksft(
    stats: TokenStats,
    *,
    entropy: float = 1.0,
    kl: float = 0.1,
    entropy_weight: float = 0.05,
    kl_weight: float = 0.05,
) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy but where the model is unsure or has left the reference: there entropy and an anchor instead.

    .. math:: \ell_i = -[H_i < h][d_i < k] \log p_i - \lambda_H [H_i \ge h] \frac{H_i}{\log V}
              + \lambda_d [d_i \ge k] d_i

    Here d is the divergence of the model from the reference over the reference's K likeliest tokens, each by itself,
    and all others together, and V the number of tokens whose logit is finite.

    Args:
        stats: Token statistics; reads ``target_logprob``, ``entropy`` and ``candidate_logprob``, in nats, of the
            ``candidate_ids`` of the batch, ``(tokens, K)``, and ``reference_candidate_logprob`` of the batch,
            ``(tokens, K)``, in nats: the reference's log-probabilities of these ids. Id -100 is none. ``sftloss
            reference --top-k K`` makes both.
        entropy: The h above, lowest entropy at which a token is not imitated, in nats, ``> 0``.
        kl: The k above, lowest divergence at which a token is not imitated, in nats, ``> 0``.
        entropy_weight: Weight of the entropy, dimensionless, ``>= 0``.
        kl_weight: Weight of the divergence, dimensionless, ``>= 0``.

    Returns:
        Loss of each token, shape ``(tokens,)``, at least minus `entropy_weight`. Neither weighted nor reduced.

    Raises:
        ValueError: If a number is outside its range.
        KeyError: If the batch does not hold one of the two tensors.

    Gradient:
        Cross-entropy's where it is the loss; elsewhere those of the entropy and of the divergence. The choice is not
        differentiated.

    Helps:
        With little data before reinforcement learning: what the data would overwrite stays as the model had it. Its
        paper reports better results than cross-entropy on mathematics, and after reinforcement learning.

    Harms:
        Where what is uncertain is what is to be learned: those tokens are never imitated. Both thresholds are in nats
        and depend on model and data; take them from the quantiles that ``sftloss analyze`` measures.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> reference = torch.tensor([[-0.1, -2.3]])
        >>> extras = {"candidate_ids": torch.tensor([[0, 1]]), "reference_candidate_logprob": reference}
        >>> eksft(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras))
        tensor([0.1269])

    Source:
        Liu et al., *Entropy-KL Divergence-based Token Masking: A Novel Approach for Selective Fine-tuning of Large
        Language Models*, 2026 (arXiv:2605.29303), with 0.05 for both weights and the union of both choices, as its
        script has them. It takes the top 0.2 of a batch by entropy and by divergence; a share mixes tokens, so here
        thresholds stand for it. Its code scales both weights by 1.05 or 0.95, divides each part by its own count, and
        has p - log p_ref for log p - log p_ref in the divergence; none of these is followed.
    """
    check_range("eksft", entropy=(entropy, "> 0"), kl=(kl, "> 0"))
    check_range("eksft", entropy_weight=(entropy_weight, ">= 0"), kl_weight=(kl_weight, ">= 0"))
    reference = read_extra(stats, "eksft", "reference_candidate_logprob")
    distance = divergence(*candidates_and_rest(stats.candidate_logprob, reference))
    is_unsure, is_away = stats.entropy >= entropy, distance >= kl
    size = torch.as_tensor(stats.vocab_size, device=distance.device, dtype=distance.dtype).clamp(min=2).log()
    losses = torch.where(is_unsure | is_away, 0.0, -stats.target_logprob)
    losses = losses - entropy_weight * torch.where(is_unsure, stats.entropy / size, 0.0)
    return where_counted(stats, losses + kl_weight * torch.where(is_away, distance, 0.0))
