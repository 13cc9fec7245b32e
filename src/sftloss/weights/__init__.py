"""How much each token counts: weights u from the data, one normalizer Z a step, coefficients c = u / Z.

Everything is flat, ``(tokens,)``: padded and packed batches look the same, and ``segments`` holds the sequence of each
token (any integers; negative is padding). Weights are dimensionless data: none has a gradient. The factors multiply in
this order::

    u = role_weights(roles, {"prompt": 0.1, "response": 1.0})
    u = position_weights(u, segments, start=0.5, end=1.0)
    u = length_weights(u, segments, alpha=0.5)              # T: the sum of the two factors above
    u = adaptive_length_weights(u, segments, target_length=200.0)
    u = group_weights(u, languages, factors) * rewards
    Z = sum of normalizer(u, segments, by="weights") over all micro-batches and ranks of the step
    c = coefficients(u, Z)
"""

from __future__ import annotations

from sftloss.roles import ROLES
from sftloss.weights.groups import group_coefficients, group_normalizers, group_weights
from sftloss.weights.languages import byte_factors, temperature_factors, unimax_factors
from sftloss.weights.lengths import adaptive_length_weights, length_weights, segment_lengths
from sftloss.weights.normalization import (
    EXAMPLE_MEAN,
    NORMALIZATIONS,
    SQRT,
    TOKEN_MEAN,
    Normalization,
    micro_batch_mean,
    normalization,
)
from sftloss.weights.normalizer import NORMALIZERS, coefficients, normalizer, validate_weights
from sftloss.weights.positions import position_weights
from sftloss.weights.presets import WEIGHT_PAPERS, Preset, preset
from sftloss.weights.rewards import reward_weights
from sftloss.weights.roles import role_weights
from sftloss.weights.sequences import SEQUENCE_VALUES, sequence_values

__all__ = [
    "EXAMPLE_MEAN",
    "NORMALIZATIONS",
    "NORMALIZERS",
    "ROLES",
    "SEQUENCE_VALUES",
    "SQRT",
    "TOKEN_MEAN",
    "WEIGHT_PAPERS",
    "Normalization",
    "Preset",
    "adaptive_length_weights",
    "byte_factors",
    "coefficients",
    "group_coefficients",
    "group_normalizers",
    "group_weights",
    "length_weights",
    "micro_batch_mean",
    "normalization",
    "normalizer",
    "position_weights",
    "preset",
    "reward_weights",
    "role_weights",
    "segment_lengths",
    "sequence_values",
    "temperature_factors",
    "unimax_factors",
    "validate_weights",
]
