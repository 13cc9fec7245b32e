"""Pure statistics in float64. What is undefined is NaN, never 0.

Lengths and signals are non-negative numbers of examples; sizes are given as arrays of shape ``(examples,)``.
Intervals come from `_bootstrap`: here are the closed forms, on the sample or on sums of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sftloss.document import Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. `reason` says why it is undefined (value NaN); empty where it is defined."""

    value: float
    interval: Interval | None = None
    reason: str = ""


def _float(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _ratio(top: Floats | float, bottom: Floats | float) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.asarray(top, dtype=np.float64) / np.asarray(bottom, dtype=np.float64)
    return np.where(np.isfinite(ratio), ratio, np.nan)


def ranks(values: ArrayLike) -> Floats:
    """Ranks from 1, ties share their mean."""
    values = _float(values)
    _, code, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2.0)[code.ravel()]


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Linear correlation; NaN where either does not vary or there are fewer than three pairs."""
    a, b = _float(x), _float(y)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    dx, dy = a - a.mean(), b - b.mean()
    return float((dx @ dy) / np.sqrt((dx @ dx) * (dy @ dy)))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Rank correlation, ties averaged."""
    return pearson(ranks(x), ranks(y))


def partial_spearman(x: ArrayLike, y: ArrayLike, given: ArrayLike, groups: ArrayLike | None = None) -> float:
    """Rank correlation of x and y after both ranks are regressed on the ranks of `given` (and on group means)."""
    columns = [np.ones(len(_float(x))), ranks(given)]
    if groups is not None:
        codes = np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
        columns += [(codes == code).astype(np.float64) for code in range(1, codes.max() + 1)]
    design = np.stack(columns, axis=1)
    residuals = []
    for values in (ranks(x), ranks(y)):
        left = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        # what the design explains entirely leaves rounding noise, whose correlation means nothing
        if left @ left <= 1e-18 * (values @ values):
            return float("nan")
        residuals.append(left)
    return pearson(*residuals)


def gini(values: ArrayLike) -> float:
    """Gini coefficient: 0 when all are equal, (n-1)/n when one has everything."""
    return concentration_index(values, values)


def concentration_index(values: ArrayLike, by: ArrayLike) -> float:
    r"""Concentration index :math:`C = 2\,\mathrm{cov}(S, R)/\bar S`, R the mid-rank of `by` in (0, 1).

    Positive where large `by` hold more than their part; equals the Gini coefficient where `by` is `values`
    (Kakwani, 1977; O'Donnell et al., *Analyzing Health Equity Using Household Survey Data*, 2008, ch. 8).
    """
    values = _float(values)
    if len(values) == 0 or not values.sum() > 0:
        return float("nan")
    rank = (ranks(by) - 0.5) / len(values)
    return float(2.0 * np.mean((values - values.mean()) * (rank - 0.5)) / values.mean())


def kakwani(values: ArrayLike, by: ArrayLike) -> float:
    """Concentration index less the Gini of `by`: 0 where proportional to `by`, below 0 where the small get more."""
    return concentration_index(values, by) - gini(by)


def concentration_curve(values: ArrayLike, by: ArrayLike, *, points: int = 40) -> tuple[Floats, Floats]:
    """Cumulative share of examples and of `values`, examples ordered by `by`, from (0, 0) to (1, 1).

    Equal `by` move together: the curve does not depend on the order of rows.
    """
    by, values = _float(by), _float(values)
    _, code, count = np.unique(by, return_inverse=True, return_counts=True)
    sums = np.bincount(code.ravel(), weights=values, minlength=len(count))
    x = np.concatenate([[0.0], np.cumsum(count) / max(len(by), 1)])
    y = np.concatenate([[0.0], _ratio(np.cumsum(sums), sums.sum())])
    if len(x) > points + 1:
        keep = np.unique(np.searchsorted(x, np.linspace(0.0, 1.0, points + 1)).clip(0, len(x) - 1))
        x, y = x[keep], y[keep]
    return x, y


def kish_ess(values: ArrayLike) -> float:
    r"""Effective number of examples :math:`(\sum S)^2 / \sum S^2` (Kish, 1965)."""
    values = _float(values)
    return float(_ratio(values.sum() ** 2, (values * values).sum()))


def top_share(values: ArrayLike, fraction: float) -> float:
    """Share held by the largest `fraction` of the examples; a part of an example counts in part."""
    values = np.sort(_float(values))[::-1]
    if len(values) == 0 or not values.sum() > 0:
        return float("nan")
    count = fraction * len(values)
    whole = int(count)
    part = (count - whole) * values[whole] if whole < len(values) else 0.0
    return float((values[:whole].sum() + part) / values.sum())


def weighted_quantile(values: ArrayLike, weights: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Smallest value whose cumulative weight reaches each probability."""
    values, weights = _float(values), _float(weights)
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[order])
    if len(values) == 0 or not cumulative[-1] > 0:
        return np.full(np.shape(probabilities), np.nan)
    # a hair below: 0.1 + 0.2 must reach 0.3
    wanted = _float(probabilities) * cumulative[-1] * (1.0 - 1e-12)
    return values[order][np.searchsorted(cumulative, wanted).clip(0, len(values) - 1)]


def quantile_bins(values: ArrayLike, count: int = 10) -> tuple[NDArray[np.int64], list[tuple[float, float]]]:
    """Bins of about equally many examples, equal values together: a code for each, and each bin's (least, greatest).

    Fewer than `count` bins come back where values repeat.
    """
    values = _float(values)
    if len(values) == 0:
        return np.zeros(0, dtype=np.int64), []
    last = -(-np.arange(1, count) * len(values) // count) - 1  # in integers: 0.3 * 1000 is not 300
    cuts = np.unique(np.sort(values)[last])
    raw = np.searchsorted(cuts, values, side="left")
    present, codes = np.unique(raw, return_inverse=True)
    codes = codes.ravel().astype(np.int64)
    bounds = [(float(values[codes == k].min()), float(values[codes == k].max())) for k in range(len(present))]
    return codes, bounds


def theil_sen(x: ArrayLike, y: ArrayLike, *, pairs: int = 200_000, seed: int = 0) -> float:
    """Median slope over pairs: all of them, or `pairs` drawn at random where there are more."""
    x, y = _float(x), _float(y)
    n = len(x)
    if n * (n - 1) // 2 <= pairs:
        i, j = np.triu_indices(n, 1)
    else:
        generator = np.random.default_rng(seed)
        i, j = generator.integers(0, n, (2, pairs))
    distinct = x[i] != x[j]
    if not distinct.any():
        return float("nan")
    i, j = i[distinct], j[distinct]
    return float(np.median((y[j] - y[i]) / (x[j] - x[i])))


def cannot_tell(lengths: ArrayLike) -> str:
    """Why a statement about length is impossible here, or an empty string."""
    lengths = _float(lengths)
    lengths = lengths[lengths > 0]
    if len(lengths) < 30:
        return f"{len(lengths)} examples with trained tokens, fewer than 30"
    distinct = len(np.unique(lengths))
    if distinct < 5:
        return f"{distinct} distinct lengths, fewer than 5"
    low, high = np.quantile(lengths, (0.1, 0.9))
    if high / low < 1.5:
        return f"lengths hardly vary (90th over 10th percentile {high / low:.2f}, below 1.5)"
    return ""
