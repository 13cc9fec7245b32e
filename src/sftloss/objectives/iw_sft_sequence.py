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
        examples=("iw_sft_sequence",),
        neutral="iw_sft_sequence(temperature=0)",
        is_detached=True,
        extras=("reference_logprob",),
        sequence_values=("mean_log_ratio",),
    )
)
def iw_sft_sequence(stats: TokenStats, *, temperature: float = 1.0, high: float = 16.0) -> Float[Tensor, " tokens"]:
    r"""Importance-weighted fine-tuning with one weight an answer: how far the model has moved towards it.

    .. math:: \ell_t = -\operatorname{sg}(\min(b, e^{\tau m})) \log p_t, \qquad
        m = \frac{1}{T} \sum_{j=1}^{T} (\log p_j - \log p^r_j)

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``mean_log_ratio``, the mean above, shape ``(tokens,)``.
            Training computes it for each answer from ``reference_logprob`` of the batch, the target's under the
            reference model, in nats.
        temperature: The tau above, dimensionless, ``>= 0``. ``0`` is cross-entropy.
        high: The b above, highest weight, ``>= 1``.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If a number is outside its range or not finite.
        KeyError: If the batch does not hold what it reads.

    Gradient:
        Cross-entropy's times the weight, which is not differentiated. At the start of a run, where model and reference
        agree, it is cross-entropy's.

    Helps:
        With filtered or rewarded data, as ``iw_sft``; a weight an answer is nearer to its derivation, in which whole
        answers are drawn.

    Harms:
        With unfiltered data: answers that are learned first, short and plain ones, get more weight and are learned
        further. It needs whole sequences, so it is refused where ranks hold slices of them.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> extras = {"mean_log_ratio": torch.tensor([0.5])}
        >>> iw_sft_sequence(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras))
        tensor([0.2093])

    Source:
        Qin and Springenberg, *Supervised Fine Tuning on Curated Data is Reinforcement Learning (and can be improved)*,
        2025 (arXiv:2507.12856), with the mean over tokens and the bound 16 of its code, whose temperature is 1 in the
        trainer and 2 by default. The form for single tokens is ``iw_sft``.
    """
    check_range("iw_sft_sequence", temperature=(temperature, ">= 0"), high=(high, ">= 1"))
    log_weight = temperature * read_extra(stats, "iw_sft_sequence", "mean_log_ratio")
    return -log_weight.clamp(max=math.log(high)).exp().detach() * finite(stats.target_logprob)
