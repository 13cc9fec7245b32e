from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import finite
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats

_SCALES = {"paper": None, "llama_factory": 3.0, "axolotl": 1.0}


@attach_record(
    ObjectiveRecord(
        examples=("eaft_top", "eaft_top(scale='llama_factory')", "eaft_top(scale='axolotl')"),
        neutral="eaft_top(alpha=0)",
        is_detached=True,
    )
)
def eaft_top(stats: TokenStats, *, k: int = 20, alpha: float = 1.0, scale: str = "paper") -> Float[Tensor, " tokens"]:
    r"""Cross-entropy times the entropy of the k likeliest tokens: ``eaft`` exactly as its paper has it.

    .. math:: \ell_i = -\operatorname{sg}((H^k_i / s)^\alpha) \log p_i

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``top_entropy``, the H above: the entropy of the k
            likeliest tokens with their probabilities renormalized, shape ``(tokens,)``, in nats.
        k: How many tokens, ``>= 2``.
        alpha: Exponent of the weight, dimensionless, ``>= 0``. ``0`` is cross-entropy.
        scale: The s above: ``"paper"`` log k, so that the weight is at most 1, ``"llama_factory"`` 3, ``"axolotl"`` 1.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced. Not comparable with
        cross-entropy.

    Raises:
        ValueError: If `k` is no whole number or below 2, `alpha` is negative or not finite, or `scale` is unknown.

    Gradient:
        Cross-entropy's times the weight, which is not differentiated. The weight is 0 where the prediction is certain,
        of the target or of another token.

    Helps:
        As ``eaft`` does: a target that contradicts a certain prediction gets no gradient. Where numbers are to be
        those of a LLaMA-Factory or Axolotl run, take this one and the framework's scale.

    Harms:
        Where the data correct confident mistakes, those are not learned. It costs more than ``eaft``, whose entropy of
        the whole vocabulary orders tokens almost alike: the paper reports a correlation of 0.999.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> eaft_top(from_logits(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])), k=2)
        tensor([0.1263])

    Source:
        Diao et al., *Entropy-Adaptive Fine-Tuning: Resolving Confident Conflicts to Mitigate Forgetting*, 2026
        (arXiv:2601.02151), with k = 20. It divides by log 20 = 2.996, LLaMA-Factory by 3.0, Axolotl by nothing: the
        same learning rate then means a step three times as large.
    """
    check_range("eaft_top", k=(k, ">= 2"), alpha=(alpha, ">= 0"))
    if scale not in _SCALES:
        raise ValueError(f"eaft_top: scale must be {', '.join(map(repr, _SCALES))}, got {scale!r}.")
    weight = (stats.top_entropy(k).clamp(min=0) / (_SCALES[scale] or math.log(k))) ** alpha
    return -weight.detach() * finite(stats.target_logprob)
