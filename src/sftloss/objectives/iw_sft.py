from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import finite, read_extra
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(
        examples=("iw_sft",), neutral="iw_sft(temperature=0)", is_detached=True, extras=("reference_logprob",)
    )
)
def iw_sft(
    stats: TokenStats, *, temperature: float = 1.0, low: float = 0.2, high: float = 1.8
) -> Float[Tensor, " tokens"]:
    r"""Importance-weighted fine-tuning: cross-entropy times how far the model has moved towards the target.

    .. math:: \ell_i = -\operatorname{sg}(\min(b, \max(a, (p_i / p^r_i)^\tau))) \log p_i

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``reference_logprob`` of the batch, the target's under the
            reference model, shape ``(tokens,)``, in nats.
        temperature: The exponent tau above, dimensionless, ``>= 0``. ``0`` is cross-entropy.
        low: The a above, lowest weight, in ``[0, 1]``.
        high: The b above, highest weight, ``>= 1``.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `temperature` or `high` is not finite, or a number is outside its range.
        KeyError: If the batch does not hold ``reference_logprob``.

    Gradient:
        Cross-entropy's times the weight, which is not differentiated. Where model and reference agree, as at the start
        of a run, it is cross-entropy's.

    Helps:
        With filtered or rewarded data: weighting by the ratio makes the likelihood of good examples a tighter lower
        bound of the reward, as its paper derives.

    Harms:
        With unfiltered data: tokens that rise get more weight and rise further, wrong ones too. The bounds limit this;
        wider ones make it unstable.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> extras = {"reference_logprob": torch.tensor([-1.0])}
        >>> iw_sft(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras))
        tensor([0.2285])

    Source:
        Qin and Springenberg, *Supervised Fine Tuning on Curated Data is Reinforcement Learning (and can be improved)*,
        2025 (arXiv:2507.12856). Its code has this form for tokens, within [0.2, 1.8] and without a temperature, but its
        trainer runs the other one: one weight a sequence, from the mean of log p / p_r, within [0, 16], which is
        ``iw_sft_sequence``.
    """
    check_range("iw_sft", temperature=(temperature, ">= 0"), low=(low, "in [0, 1]"), high=(high, ">= 1"))
    log_p = finite(stats.target_logprob)
    ratio = temperature * (log_p.detach() - read_extra(stats, "iw_sft", "reference_logprob"))
    # bounded as a logarithm: its exponential may be too large for a float
    weight = ratio.clamp(min=math.log(low) if low else -math.inf, max=math.log(high)).exp()
    return -weight * log_p
