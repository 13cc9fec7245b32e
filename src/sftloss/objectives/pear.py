from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import finite, read_extra
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats

_LEVELS = ("token", "block", "sequence")
LOWEST, HIGHEST = -10.0, 5.0  # of the weight's logarithm


@attach_record(
    ObjectiveRecord(
        examples=("pear", "pear(level='block')", "pear(level='sequence')"),
        is_detached=True,
        extras=("reference_logprob",),
        sequence_values=(
            "later_log_ratio",
            "later_tokens",
            "later_block_log_ratio",
            "later_block_tokens",
            "whole_log_ratio",
        ),
    )
)
def pear(stats: TokenStats, *, gamma: float = 0.999, level: str = "token") -> Float[Tensor, " tokens"]:
    r"""Cross-entropy times how likely the rest of the answer is for the model, over the model that wrote it.

    .. math:: \ell_t = -\operatorname{sg}(G_t) \log p_t, \qquad
        G_t = \gamma^{T-t} e^{S_t}, \qquad
        S_t = \sum_{j=t+1}^{T} \operatorname{clip}(\log p_j - \log p^r_j, -0.08, 0.3)

    Args:
        stats: Token statistics; reads ``target_logprob`` and values of the token's sequence, shape ``(tokens,)``:
            ``later_log_ratio``, the S above, and ``later_tokens``, which is T - t; the same from the end of the token's
            block on, ``later_block_log_ratio`` and ``later_block_tokens``; or ``whole_log_ratio``, the sum over the
            whole answer. Training computes them from ``reference_logprob`` of the batch, the target's under the
            model that wrote the answers, in nats.
        gamma: Discount a token, in ``(0, 1]``.
        level: ``"token"`` is the formula above; ``"block"`` gives every 4 trained tokens the weight of the last of
            them; ``"sequence"`` weighs every token of an answer by the exponential of its whole sum, without discount.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced. Not comparable with
        cross-entropy.

    Raises:
        ValueError: If `gamma` is outside its range or `level` is unknown.
        KeyError: If the batch does not hold what it reads.

    Gradient:
        Cross-entropy's times the weight, which is not differentiated and is kept between exp(-10) and exp(5). The last
        token of an answer has the weight 1.

    Helps:
        Before reinforcement learning, on answers of another model: tokens that lead to a continuation which the model
        itself would rarely write count little, since its own samples will not go there. Its abstract reports pass@8
        after reinforcement learning up to 14.6% higher on AIME 2025.

    Harms:
        Where the writer is much more certain than the model, most sums are far below 0, and only the ends of answers
        are trained; a look at the weights shows it.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> extras = {"later_log_ratio": torch.tensor([-0.5]), "later_tokens": torch.tensor([10.0])}
        >>> pear(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras))
        tensor([0.0762])

    Source:
        Zhang et al., *Good SFT Optimizes for SFT, Better SFT Prepares for Reinforcement Learning*, 2026, sections 3.3
        to 3.5 with the bounds of 3.7, gamma of 4.2 and the blocks of figure 6, as a reader's implementation of
        Algorithm 1 gives them (arXiv:2602.01058). No official code was found.
    """
    check_range("pear", gamma=(gamma, "> 0"))
    if gamma > 1 or level not in _LEVELS:
        raise ValueError(f"pear: gamma must be at most 1 and level one of {_LEVELS}, got {gamma} and {level!r}.")
    if level == "token":
        log_weight = read_extra(stats, "pear", "later_log_ratio")
        log_weight = log_weight + math.log(gamma) * read_extra(stats, "pear", "later_tokens")
    elif level == "block":
        log_weight = read_extra(stats, "pear", "later_block_log_ratio")
        log_weight = log_weight + math.log(gamma) * read_extra(stats, "pear", "later_block_tokens")
    else:
        log_weight = read_extra(stats, "pear", "whole_log_ratio")
    return -log_weight.clamp(LOWEST, HIGHEST).exp().detach() * finite(stats.target_logprob)
