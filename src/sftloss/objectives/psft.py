from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import complement, read_extra
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("psft(high=0.28)",), extras=("old_logprob",)))
def psft(stats: TokenStats, *, high: float = 0.28) -> Float[Tensor, " tokens"]:
    r"""Proximal fine-tuning: raise each target's probability until it has grown by a given share.

    .. math:: \ell_i = 1 - \min(r_i, 1 + \varepsilon), \qquad r_i = p_i / p^o_i

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``old_logprob`` of the batch, the target's under the model
            some steps ago, shape ``(tokens,)``, in nats.
        high: The epsilon above, the growth at which a token stops, dimensionless, ``> 0``.

    Returns:
        Loss of each token, shape ``(tokens,)``, dimensionless, in ``[-high, 1]``. Neither weighted nor reduced.

    Raises:
        ValueError: If `high` is not positive or not finite.
        KeyError: If the batch does not hold ``old_logprob``.

    Gradient:
        Cross-entropy's times r while r is below 1 + high, exactly 0 from there on. With old = current, as at the first
        step after a refresh, it is cross-entropy's.

    Helps:
        Entropy and what the model could do before: no token moves far between two refreshes of the old model. Its paper
        reports that the entropy is kept and that reinforcement learning afterwards gains more.

    Harms:
        Where much is to be learned: progress is limited per refresh. With an old model that is never refreshed,
        training stops once every target has grown by the share.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> extras = {"old_logprob": torch.tensor([-0.2])}
        >>> psft(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras))
        tensor([-0.0758])

    Source:
        Zhu et al., *Proximal Supervised Fine-Tuning*, 2025 (arXiv:2508.17784), with 0.28. Its loss is PPO's with an
        advantage of 1, -min(r, clip(r, 1 - 0.2, 1 + 0.28)); the lower bound never acts then, and 1 is added here so
        that no change costs 0.
    """
    check_range("psft", high=(high, "> 0"))
    log_ratio = stats.target_logprob - read_extra(stats, "psft", "old_logprob")
    # bounded as a logarithm: its exponential may be too large for a float
    return complement(log_ratio.clamp(max=math.log1p(high)))
