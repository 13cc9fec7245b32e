from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.reading import candidates_and_rest, divergence, read_extra, where_counted
from sftloss.objectives.record import ObjectiveRecord, PublishedLoss
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(
        examples=("cross_entropy + 0.1 * kl_anchor", "cross_entropy + 0.1 * kl_anchor(direction='reverse')"),
        is_term=True,
        extras=("candidate_ids", "reference_candidate_logprob"),
        published=(PublishedLoss("2509.23753", "ASFT on the likeliest tokens", "dft + 0.05 * kl_anchor"),),
    )
)
def kl_anchor(stats: TokenStats, *, direction: str = "forward") -> Float[Tensor, " tokens"]:
    r"""Divergence from a reference model's likeliest tokens: keeps the whole prediction near the reference's.

    .. math:: r_i = \sum_g p^r_{ig} (\log p^r_{ig} - \log p_{ig})

    The groups g are the reference's K likeliest tokens, each by itself, and all other tokens together.

    Args:
        stats: Token statistics; reads ``candidate_logprob``, in nats, of the ``candidate_ids`` of the batch,
            ``(tokens, K)``, and ``reference_candidate_logprob`` of the batch, ``(tokens, K)``, in nats: the
            reference's log-probabilities of these ids. Id -100 is none. ``sftloss reference --top-k K`` makes both.
        direction: ``"forward"`` is KL(reference, model), as above: the model must cover what the reference does.
            ``"reverse"`` is KL(model, reference): the model must not go where the reference does not.

    Returns:
        Penalty of each token, shape ``(tokens,)``, in nats, ``>= 0``; 0 where both models agree on every group. Neither
        weighted nor reduced.

    Raises:
        ValueError: If `direction` is another.
        KeyError: If the batch does not hold one of the two.

    Gradient:
        Forward :math:`p - q`, where q is the reference on its K tokens and shares the rest as the model does. Reverse
        :math:`p_j (\log p_g - \log p^r_g - r)`, with g the group of token j.

    Helps:
        Forgetting: all likely tokens of the reference are held, not the target alone, and no second model is in memory.

    Harms:
        Learning, as every anchor. With few candidates the rest is held as one number only: the grouped divergence is
        at most the full one, and tells nothing of how the rest is shared. Choose K so that the list holds 0.95 of the
        mass; :func:`sftloss.reference.reference_divergence` computes the full one.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> reference = torch.tensor([[-0.7, -0.7]])
        >>> extras = {"candidate_ids": torch.tensor([[0, 1]]), "reference_candidate_logprob": reference}
        >>> kl_anchor(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras))
        tensor([0.4988])

    Source:
        Zhu et al., *Anchored Supervised Fine-Tuning*, 2025 (arXiv:2509.23753): its code and LLaMA-Factory take the
        forward divergence over the whole vocabulary, with 0.05 to 0.1 before it, as a term added to ``dft``. NeMo-RL
        (pull request 3302) estimates the reverse one at the target, as ``k3_anchor`` does, so coefficients do not carry
        over.
    """
    if direction not in ("forward", "reverse"):
        raise ValueError(f"kl_anchor: direction must be 'forward' or 'reverse', got {direction!r}.")
    reference = read_extra(stats, "kl_anchor", "reference_candidate_logprob")
    log_p, log_r = candidates_and_rest(stats.candidate_logprob, reference)
    first, second = (log_r, log_p) if direction == "forward" else (log_p, log_r)
    return where_counted(stats, divergence(first, second))
