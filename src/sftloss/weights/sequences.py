"""Values of each token that come from its whole sequence, for objectives that compare sequences under two models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sftloss.weights.segments import check_flat, dense_ids, ranks_within, segment_sums

BOUNDS = (-0.08, 0.3)
"""Between these a token's log-ratio is kept before it is added up to a product, as PEAR does (arXiv:2602.01058)."""

BLOCK = 4
"""Trained tokens of a block, PEAR's 4."""

SEQUENCE_VALUES = (
    "mean_log_ratio",
    "whole_log_ratio",
    "later_log_ratio",
    "later_tokens",
    "later_block_log_ratio",
    "later_block_tokens",
)
"""The names of :func:`sequence_values`."""


def sequence_values(
    logprob: Float[Tensor, " tokens"],
    reference_logprob: Float[Tensor, " tokens"],
    segments: Int[Tensor, " tokens"],
    is_trained: Bool[Tensor, " tokens"],
) -> dict[str, Tensor]:
    r"""Compare the trained tokens of each sequence under two models, with :math:`\delta_j = \log p_j - \log p^r_j`.

    ========================= ==================================================================
    ``mean_log_ratio``        mean of :math:`\delta` over the sequence
    ``whole_log_ratio``       sum of :math:`\delta` over the sequence, each within ``BOUNDS``
    ``later_log_ratio``       the same over the tokens that come after this one
    ``later_tokens``          how many these are
    ``later_block_log_ratio`` the same sum over those that come after this one's block of ``BLOCK``
    ``later_block_tokens``    how many these are
    ========================= ==================================================================

    Args:
        logprob: Log-probability of each target under the model in training, ``(tokens,)``, in nats. Held fixed.
        reference_logprob: The same under the other model.
        segments: Sequence of each token, ``(tokens,)``, integers; negative is padding.
        is_trained: ``(tokens,)``. The other tokens are in no mean, sum or count.

    Returns:
        The values of each token by name, ``(tokens,)`` each, in the dtype of `logprob`; 0 on padding.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> p, r = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.1, -1.2, -0.5])
        >>> sequence_values(p, r, torch.tensor([0, 0, 0]), torch.ones(3, dtype=torch.bool))["later_log_ratio"]
        tensor([ 0.1200, -0.0800,  0.0000])
    """
    check_flat("sequence_values", logprob, reference=reference_logprob, segments=segments, is_trained=is_trained)
    dense, counted = dense_ids(segments), is_trained & (segments >= 0)
    ratio = torch.where(counted, logprob.detach() - reference_logprob, 0.0)
    bounded = ratio.clamp(*BOUNDS)
    one = counted.to(logprob.dtype)
    before, count = ranks_within(one, dense)
    before_sum, whole = ranks_within(bounded, dense)
    later, later_count = whole - before_sum - bounded, count - before - one
    block = torch.where(segments < 0, -1, dense * (len(segments) + 1) + before.long() // BLOCK)
    before_in_block, in_block = ranks_within(one, dense_ids(block))
    before_sum_in_block, sum_in_block = ranks_within(bounded, dense_ids(block))
    values = {
        "mean_log_ratio": segment_sums(ratio, dense)[dense] / count.clamp(min=1),
        "whole_log_ratio": whole,
        "later_log_ratio": later,
        "later_tokens": later_count,
        "later_block_log_ratio": later - (sum_in_block - before_sum_in_block - bounded),
        "later_block_tokens": later_count - (in_block - before_in_block - one),
    }
    return {name: value.to(logprob.dtype) for name, value in values.items()}


def sequence_values_read(
    names: Iterable[str],
    logprob: Float[Tensor, " tokens"],
    extras: Mapping[str, Tensor],
    segments: Int[Tensor, " tokens"],
    weights: Float[Tensor, " tokens"],
) -> dict[str, Tensor]:
    """The :func:`sequence_values` of these names, on the device of `logprob`, for training and analysis alike.

    `weights` are those by which the loss multiplies: with weights by role those of the roles, not the data's. Tokens
    with the weight 0 are not trained. The other model's log-probabilities are ``extras["reference_logprob"]``.
    """
    device = logprob.device
    reference, is_trained = extras["reference_logprob"].to(logprob), (weights != 0).to(device)
    values = sequence_values(logprob, reference, segments.to(device), is_trained)
    return {name: values[name] for name in names}
