from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import read_extra
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(
        examples=("prift_mass",),
        neutral="prift_mass(threshold=0)",
        extras=("reference_logprob", "reference_candidate_logprob", "candidate_is_target"),
    )
)
def prift_mass(stats: TokenStats, *, threshold: float = 0.5) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy on the tokens that a frozen reference model supports, by the mass of those it prefers.

    .. math:: \ell_i = -[u_i \ge t] \log p_i, \qquad u_i = 1 - \sum_{j: p^r_{ij} > p^r_i} p^r_{ij}

    Args:
        stats: Token statistics; reads ``target_logprob``, and of the batch ``reference_logprob``, the target's under
            the reference model, shape ``(tokens,)``, ``reference_candidate_logprob``, those of its likeliest tokens,
            ``(tokens, K)``, in nats, and ``candidate_is_target``, which of these is the target.
        threshold: The t above, in ``[0, 1]``: a token is kept while the tokens that the reference prefers to it have at
            most the mass 1 - t. ``0`` is cross-entropy.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `threshold` is outside its range.
        KeyError: If the batch does not hold one of these.

    Gradient:
        Cross-entropy's on the tokens that are kept, exactly 0 on the others. The reference decides once, so the choice
        does not move in training.

    Helps:
        As ``prift``, with a choice instead of a weight: a token with several good alternatives is kept, though its own
        probability is low.

    Harms:
        Where the reference is wrong: a target outside its mass is never learned, however long the run.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> extras = {"reference_logprob": torch.tensor([-1.6])}
        >>> extras["reference_candidate_logprob"] = torch.tensor([[-0.4, -1.6]])
        >>> extras["candidate_is_target"] = torch.tensor([[False, True]])
        >>> prift_mass(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras))
        tensor([0.])

    Source:
        Wang et al., *PriFT: Prior-Support Guided Supervised Fine-Tuning*, 2026, PriFT-mass at its threshold 0.5
        (arXiv:2606.09396); its code sums over the whole vocabulary. With K stored tokens the sum is the same where the
        target is one of them. Elsewhere the mass of all K counts as preferred, which may be too little: then the token
        is kept.
    """
    check_range("prift_mass", threshold=(threshold, "in [0, 1]"))
    own = read_extra(stats, "prift_mass", "reference_logprob")
    others = read_extra(stats, "prift_mass", "reference_candidate_logprob")
    # the target's own entry may differ from `own` by a rounding
    is_target = read_extra(stats, "prift_mass", "candidate_is_target") > 0.5
    preferred = torch.where((others > own[:, None]) & ~is_target, others.exp(), 0.0).sum(dim=1).clamp(max=1)
    return torch.where(1 - preferred >= threshold, -stats.target_logprob, 0.0)
