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
def rank_tuner(stats: TokenStats, *, q: float = 1.0) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy times a scale that compares the target's probability with the entropy of the prediction.

    .. math:: \ell_i = -\operatorname{sg}(p_i^q \max(10^{-6}, p_i s_i)^{-K_i}) \log p_i, \qquad
        K_i = (\log 2 / \log(1 + \max(R_i, s_i)))^2

    Here s is an estimate of the rank that a sample of the prediction has: :math:`1 + e^H / 4` where the entropy is at
    least 2 bits, and 2 minus the largest probability below.

    Args:
        stats: Token statistics; reads ``target_logprob``, ``max_logprob`` and ``entropy``, the H above, in nats, and
            ``rank``, the R above, each of shape ``(tokens,)``.
        q: Exponent of the base weight, dimensionless, ``>= 0``: 1 is that of ``dft``, for mathematics; 0 is that of
            cross-entropy, for other tasks.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced. Not comparable with
        cross-entropy.

    Raises:
        ValueError: If `q` is negative or not finite.

    Gradient:
        Cross-entropy's times the weight, which is not differentiated. The scale :math:`(p s)^{-K}` is near 1 where
        entropy is high and the target has a late rank, above 1 where the target is unlikely although the prediction is
        certain, and below 1 where it is likelier than the entropy explains.

    Helps:
        Where unlikely targets are partly noise and partly what is to be learned: entropy tells replaceable words from
        calculations. Its table 1 has 26% of the injected noise among the tenth of tokens with the largest weights,
        against 40% for weights by probability and 55% for weights by entropy.

    Harms:
        New facts that contradict a certain prediction get the largest scale, right or wrong. With q = 1 unlikely
        targets weigh little, as in ``dft``.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> rank_tuner(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([1])))
        tensor([0.5653])

    Source:
        Yu et al., *Probability-Entropy Calibration: An Elastic Indicator for Adaptive Fine-tuning*, 2026
        (arXiv:2602.01745), in the form of its training code. Its definition compares the rank with the expected rank,
        which needs a sort of the vocabulary; the code has s for it, a lower bound from 2 bits on. Its code always has
        the base weight p, as q = 1.
    """
    check_range("rank_tuner", q=(q, ">= 0"))
    log_p, entropy = finite(stats.target_logprob.detach()), stats.entropy.detach()
    spread = torch.where(entropy >= 2 * math.log(2), 1 + entropy.exp() / 4, 2 - stats.max_logprob.exp())
    power = (math.log(2) / torch.log1p(torch.maximum(stats.rank.to(log_p.dtype), spread))) ** 2
    log_weight = q * log_p - power * (log_p + spread.log()).clamp(min=math.log(1e-6))
    return -log_weight.exp() * finite(stats.target_logprob)
