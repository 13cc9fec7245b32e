from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import finite
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats

_SCALES = {"paper": math.log(20), "llama_factory": 3.0, "axolotl": 1.0}


@attach_record(
    ObjectiveRecord(
        examples=("eaft", "eaft(scale='llama_factory')", "eaft(scale='axolotl')"),
        neutral="eaft(alpha=0)",
        is_detached=True,
    )
)
def eaft(stats: TokenStats, *, alpha: float = 1.0, scale: str = "paper") -> Float[Tensor, " tokens"]:
    r"""Cross-entropy times the entropy of the prediction: confident conflicts teach little.

    .. math:: \ell_i = -\operatorname{sg}((H_i / s)^\alpha) \log p_i, \qquad H_i = -\sum_j p_{ij} \log p_{ij}

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``entropy``, shape ``(tokens,)``, in nats.
        alpha: Exponent of the weight, dimensionless, ``>= 0``. ``0`` is cross-entropy.
        scale: The s above: ``"paper"`` is log 20, ``"llama_factory"`` is 3, ``"axolotl"`` is 1.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced. Not comparable with
        cross-entropy.

    Raises:
        ValueError: If `alpha` is negative or not finite, or `scale` is unknown.

    Gradient:
        Cross-entropy's times the weight, which is not differentiated. The weight is 0 where the prediction is certain,
        of the target or of another token, and grows with the entropy.

    Helps:
        Forgetting: a target that contradicts a certain prediction gets no gradient. Table 1 of its paper has
        Qwen3-4B-Instruct at 80.1 on general benchmarks against 76.5 with plain fine-tuning, with mathematics unchanged
        (69.3 and 69.4).

    Harms:
        Where the data correct confident mistakes, as new facts and new formats do: those are not learned. The weights
        are small where the model is already certain, so compare at a tuned learning rate.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> eaft(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([0.0155])

    Source:
        Diao et al., *Entropy-Adaptive Fine-Tuning: Resolving Confident Conflicts to Mitigate Forgetting*, 2026
        (arXiv:2601.02151). There the entropy is that of the 20 likeliest tokens, renormalized, over log 20; here it is
        that of the whole vocabulary, which the paper reports to correlate at 0.999 and which can exceed log 20.
        LLaMA-Factory divides by 3.0, Axolotl does not divide: the same learning rate then means a step three times as
        large.
    """
    check_range("eaft", alpha=(alpha, ">= 0"))
    if scale not in _SCALES:
        raise ValueError(f"eaft: scale must be {', '.join(map(repr, _SCALES))}, got {scale!r}.")
    weight = (stats.entropy.detach().clamp(min=0) / _SCALES[scale]) ** alpha
    return -weight * finite(stats.target_logprob)
