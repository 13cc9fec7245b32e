from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import finite
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("infosft(threshold=0.93)",), is_detached=True))
def infosft(stats: TokenStats, *, threshold: float = 0.93) -> Float[Tensor, " tokens"]:
    r"""Learn most from targets of middling probability: p times how far its logit is below a threshold's.

    .. math:: \ell_i = -\operatorname{sg}(p_i \max(0, 1 - \frac{\lambda(p_i)}{\lambda(P)})) \log p_i,
        \qquad \lambda(p) = \log p - \log(1 - p)

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``other_logprob``, shape ``(tokens,)``, in nats.
        threshold: The P above, probability from which a target is no longer trained, above 0.5 and below 1.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced. Not comparable with
        cross-entropy.

    Raises:
        ValueError: If `threshold` is not between 0.5 and 1.

    Gradient:
        Cross-entropy's times the weight, which is not differentiated. With P = 0.93 the weight is at most 0.51, near p
        = 0.57; it is 0 at p = 0 and from P on.

    Helps:
        Forgetting: its paper reports better results than plain fine-tuning and ``dft``, and less forgetting. Targets
        that the model has already learned stop pulling.

    Harms:
        Confidence: targets are not trained beyond P, so they stay less certain than with cross-entropy. Unlikely
        targets get as little gradient as with ``dft``.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> infosft(from_logits(torch.tensor([[1.0, 0.0]]), torch.tensor([0])), threshold=0.93)
        tensor([0.1405])

    Source:
        Sabbaghi et al., *InfoSFT: Learn More and Forget Less with Information-Aware Token Weighting*, 2026
        (arXiv:2605.14967), with the P of its code. The paper derives the weight from the model before fine-tuning; its
        code takes the model in training, as here.
    """
    check_range("infosft", threshold=(threshold, "in (0.5, 1)"))
    log_p = finite(stats.target_logprob)
    fixed = log_p.detach()
    logit = fixed - finite(stats.other_logprob).detach()
    weight = fixed.exp() * (1 - logit / (math.log(threshold) - math.log1p(-threshold))).clamp(min=0)
    return -weight * log_p
