"""Linear and rank correlation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sftloss.numbers.estimate import Floats


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient with the two-sided p-value of "none"; NaN with a reason where it is undefined."""

    r: float
    p: float
    n: int
    reason: str = ""

    def plain(self) -> dict[str, float | int | str | None]:
        """The correlation as JSON has it: None where undefined."""
        r, p = (None if math.isnan(value) else value for value in (self.r, self.p))
        return {"r": r, "p": p, "n": self.n, "reason": self.reason}


def pearson(x: ArrayLike, y: ArrayLike) -> Correlation:
    """Linear correlation, with the exact p-value for normal data.

    Raises:
        ValueError: If the two are not flat and of one length.
    """
    from scipy import stats

    a, b = _pair("pearson", x, y)
    reason = _why_not(a, b)
    if reason:
        return Correlation(math.nan, math.nan, len(a), reason)
    result = stats.pearsonr(a, b)
    return Correlation(float(result.statistic), float(result.pvalue), len(a))


def spearman(x: ArrayLike, y: ArrayLike) -> Correlation:
    """Rank correlation: :func:`pearson` of the ranks, equal values sharing their mean rank. NaN has no rank."""
    a, b = _pair("spearman", x, y)
    if np.isnan(a).any() or np.isnan(b).any():
        return Correlation(math.nan, math.nan, len(a), "a value is NaN or infinite")
    return pearson(ranks(a), ranks(b))


def partial_spearman(x: ArrayLike, y: ArrayLike, covariate: ArrayLike, groups: ArrayLike | None = None) -> float:
    """Rank correlation of x and y after both ranks are regressed on the covariate's ranks (and on group means)."""
    columns = [np.ones(len(np.asarray(x))), ranks(covariate)]
    if groups is not None:
        codes = np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
        columns += [(codes == code).astype(np.float64) for code in range(1, codes.max() + 1)]
    design = np.stack(columns, axis=1)
    residuals = []
    for values in (ranks(x), ranks(y)):
        residual = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        # where the design explains everything, what is left is rounding noise, whose correlation means nothing
        if residual @ residual <= 1e-18 * (values @ values):
            return math.nan
        residuals.append(residual)
    return pearson(*residuals).r


def ranks(values: ArrayLike) -> Floats:
    """Ranks from 1; equal values share their mean rank."""
    from scipy import stats

    return np.asarray(stats.rankdata(values), dtype=np.float64)


def _pair(name: str, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"{name}: expected two flat arrays of one length, got shapes {a.shape} and {b.shape}.")
    return a, b


def _why_not(a: Floats, b: Floats) -> str:
    if len(a) < 3:
        return f"needs at least 3 observations, there are {len(a)}"
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return "a value is NaN or infinite"
    # equal up to rounding: means of equal losses may differ in the last bit
    if any(np.ptp(values) <= 1e-12 * np.abs(values).max() for values in (a, b)):
        return "one of the two is constant"
    return ""
