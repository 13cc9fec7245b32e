"""Metrics of a token table: loss, calibration, entropy, and whether answers end where they should."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sftloss.experiments.metrics.shapes import Floats, Gap, Metric, Ratio
from sftloss.experiments.metrics.tokens import TokenTable

BINS = 15
_POSITIONS = (0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 512, 1024)
"""First position of each bin of the end's calibration: single ones first, then growing by a factor of about 1.4."""


def token_metrics(table: TokenTable, *, bins: int = BINS) -> dict[str, Metric]:
    r"""Metrics of what the model says at the scored tokens, each over examples.

    ================  =========================================================================================
    name              definition, over rows i with T scored tokens (the end included)
    ================  =========================================================================================
    token_nll         :math:`\sum_i \sum_t -\log p_{it} / \sum_i T_i`, nats a token
    example_nll       mean over rows of a row's own mean over its tokens
    sequence_nll      mean over rows of :math:`-\log p(y_i \mid x_i)`, nats a row
    token_accuracy    share of tokens that were a most probable one
    entropy           mean over tokens of :math:`-\sum_j p_j \log p_j`, nats
    brier             mean over tokens of :math:`\sum_j (p_j - 1[j = y])^2`, multiclass, 0 to 2 (Brier, 1950)
    ece               :math:`\sum_b |\sum_{t \in b} (\max_j p_{tj} - 1[\mathrm{right}_t])| / \sum_i T_i` over bins of
                      equal mass of the confidence: expected calibration error (Naeini et al., 2015; bins of equal
                      mass as Nixon et al., 2019, arXiv:1904.01685). Its noise makes it too large by about
                      :math:`\sqrt{\mathrm{bins} / \mathrm{tokens}}` at most: compare arms on the same rows only
    eos_calibration   :math:`\sum p_{end} / \sum 1[\mathrm{end}]`: ends foreseen for each end that came. Above 1 the
                      model wants to stop earlier than the data
    eos_ece           calibration error of the probability of ending over bins of the position in the answer, for each
                      end that came: 0.1 says that a tenth of the ends is foreseen at other positions
    ================  =========================================================================================

    The bins of ``ece`` are cut on this table and then fixed, also where examples are resampled.

    Args:
        table: From `evaluate_tokens`.
        bins: Number of bins of ``ece``; equal confidences share one, so there may be fewer.

    Returns:
        By name; `by_group` splits any of them by task or language.
    """
    tokens, ones = table.lengths, np.ones(table.examples)
    nll = table.sum(table.nll)
    scored = (tokens > 0).astype(np.float64)
    ends = table.sum(table.is_end)
    return {
        "token_nll": Ratio(nll, tokens),
        "example_nll": Ratio(nll / np.maximum(tokens, 1.0), scored),
        "sequence_nll": Ratio(nll, ones),
        "token_accuracy": Ratio(table.sum(table.is_top1), tokens),
        "entropy": Ratio(table.sum(table.entropy), tokens),
        "brier": Ratio(table.sum(table.brier), tokens),
        "ece": Gap(_by_bin(table, equal_mass(table.confidence, bins), table.confidence - table.is_top1), tokens),
        "eos_calibration": Ratio(table.sum(table.end_probability), ends),
        "eos_ece": Gap(_by_bin(table, position_bins(table.position), table.end_probability - table.is_end), ends),
    }


def equal_mass(values: Floats, bins: int) -> NDArray[np.int64]:
    """Bin of each value, 0 the lowest, so that bins hold equally many as far as equal values allow, ``(tokens,)``."""
    if bins < 1:
        raise ValueError(f"equal_mass: bins must be at least 1, got {bins}.")
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins)) if len(values) else np.zeros(0)
    codes = np.searchsorted(edges, values, side="right")
    return np.unique(codes, return_inverse=True)[1].ravel().astype(np.int64)


def position_bins(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bin of each position in its answer, ``(tokens,)``."""
    return (np.searchsorted(np.array(_POSITIONS), positions, side="right") - 1).astype(np.int64)


def _by_bin(table: TokenTable, codes: NDArray[np.int64], values: NDArray[Any]) -> Floats:
    """Sums by row and bin, ``(examples, bins)``."""
    count = int(codes.max(initial=0)) + 1
    flat = np.bincount(table.example * count + codes, values, table.examples * count)
    return flat.reshape(table.examples, count).astype(np.float64)


class Bin(NamedTuple):
    """One point of a reliability diagram: tokens whose values lie in ``[low, high]``, what was said and what came."""

    low: float
    high: float
    tokens: int
    predicted: float
    observed: float


def reliability(table: TokenTable, *, bins: int = BINS) -> tuple[Bin, ...]:
    """Confidence against accuracy, in the bins of ``ece``, lowest first."""
    codes = equal_mass(table.confidence, bins)
    return _diagram(codes, table.confidence, table.confidence, table.is_top1)


def end_reliability(table: TokenTable) -> tuple[Bin, ...]:
    """Probability of ending against endings, by position in the answer (`low` to `high`, from 0)."""
    codes = position_bins(table.position)
    return _diagram(codes, table.position.astype(np.float64), table.end_probability, table.is_end)


def _diagram(
    codes: NDArray[np.int64], place: Floats, predicted: Floats, observed: NDArray[np.bool_]
) -> tuple[Bin, ...]:
    found = []
    for code in np.unique(codes):
        here = codes == code
        said, came = float(predicted[here].mean()), float(observed[here].mean())
        found.append(Bin(float(place[here].min()), float(place[here].max()), int(here.sum()), said, came))
    return tuple(found)
