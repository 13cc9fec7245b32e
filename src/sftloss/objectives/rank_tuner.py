from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import finite
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("rank_tuner", "rank_tuner(q=0)"), is_detached=True))
def rank_tuner(stats: TokenStats, *, q: float = 1.0, highest: float = 100.0) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy times a scale that compares the target's probability with the entropy of the prediction.

    .. math:: \ell_i = -\operatorname{sg}(\min(b, p_i^q \, (p_i s_i)^{-K_i})) \log p_i, \qquad
        s_i = 1 + e^{H_i} / 4, \qquad K_i = (\log 2 / \log(1 + \max(R_i, s_i)))^2

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``entropy``, the H above, in nats, and ``rank``, the R
            above, each of shape ``(tokens,)``.
        q: Exponent of the base weight, dimensionless, ``>= 0``: 1 is that of ``dft``, for mathematics; 0 is that of
            cross-entropy, for other tasks.
        highest: The b above, highest weight, ``> 0``.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced. Not comparable with
        cross-entropy.

    Raises:
        ValueError: If a number is outside its range or not finite.

    Gradient:
        Cross-entropy's times the weight, which is not differentiated. The scale :math:`(p s)^{-K}` is near 1 where
        entropy is high and the target has a late rank, above 1 where the target is unlikely although the prediction is
        certain, and below 1 where it is likelier than the entropy explains.

    Helps:
        Where unlikely targets are partly noise and partly what is to be learned: entropy tells replaceable words from
        calculations. Its table 1 puts 26% of injected noise among the tenth of tokens with the largest weights,
        against 40% for weights by probability and 55% for weights by entropy.

    Harms:
        New facts that contradict a certain prediction get the largest scale, right or wrong. With q = 1 unlikely
        targets weigh little, as in ``dft``.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> rank_tuner(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([1])))
        tensor([0.5231])

    Source:
        Yu et al., *Probability-Entropy Calibration: An Elastic Indicator for Adaptive Fine-tuning*, 2026
        (arXiv:2602.01745), in the form that its training uses, read in a summary of the paper and not in the paper. Its
        definition compares the rank with the expected rank, whose lower bound s is; that needs a sort of the
        vocabulary and is not included. The bound `highest` is ours: the power of a tiny p has none.
    """
    check_range("rank_tuner", q=(q, ">= 0"), highest=(highest, "> 0"))
    log_p, entropy = finite(stats.target_logprob.detach()), stats.entropy.detach()
    spread = 1 + entropy.exp() / 4
    power = (math.log(2) / torch.log1p(torch.maximum(stats.rank.to(log_p.dtype), spread))) ** 2
    log_weight = q * log_p - power * (log_p + spread.log())
    return -log_weight.clamp(max=math.log(highest)).exp() * finite(stats.target_logprob)
