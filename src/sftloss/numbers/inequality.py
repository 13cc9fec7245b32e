"""How unevenly a signal is held: Gini, concentration, effective number of examples, quantiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sftloss.numbers.correlation import ranks
from sftloss.numbers.estimate import Codes, Floats


def _float(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _ratio(top: Floats | float, bottom: Floats | float) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.asarray(top, dtype=np.float64) / np.asarray(bottom, dtype=np.float64)
    return np.where(np.isfinite(ratio), ratio, np.nan)


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
    return _float(values[order][np.searchsorted(cumulative, wanted).clip(0, len(values) - 1)])


def quantile_bins(values: ArrayLike, count: int = 10) -> tuple[Codes, list[tuple[float, float]]]:
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
