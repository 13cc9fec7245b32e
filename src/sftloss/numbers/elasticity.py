"""How signal grows with length: the exponent of a power law, its interval, and how badly the law fits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sftloss.document import Interval
from sftloss.numbers.bootstrap import REPLICATES, by_unit
from sftloss.numbers.estimate import Codes, Estimate, Floats
from sftloss.numbers.inequality import quantile_bins
from sftloss.numbers.studentized import studentized
from sftloss.words import counted

BAD_FIT = 0.1  # share of the signal in other lengths than the law says, from which on no exponent is advised
_FEW = 30  # examples a group of lengths needs before its part of the signal says anything about the law


def elasticity(
    lengths: ArrayLike, signal: ArrayLike, ids: ArrayLike | None = None, *, replicates: int = REPLICATES, seed: int = 0
) -> Estimate:
    r"""Exponent :math:`\beta` in :math:`E[S|L] = a L^\beta`, mean signal in length, with a bootstrap interval.

    .. math:: \sum_i S_i L_i^{-\beta} (\log L_i - \overline{\log L}) = 0

    This is the gamma quasi-likelihood with a log link (Wedderburn, 1974; Santos Silva & Tenreyro, 2006, compare such
    estimators). It is the one definition here because it answers the question that a normalization asks: by which
    power of length must an example be divided so that long and short examples hold equally much *in sum*? Examples
    without any signal count as zeros, and the noise may grow with the signal. The least-squares slope of the
    logarithms answers another question: it describes the median example, has to leave out examples without signal,
    and a single signal of 1e-9 can decide it. On data whose sums are in proportion to length it may say 2.

    1: signal in proportion to length; 0: the same for every example; below 0: short examples get more.
    The interval takes one Newton step from the estimate for each replicate.

    Args:
        lengths: Of each example, ``(examples,)``; examples without a positive length are left out.
        signal: What each example receives, ``>= 0``, ``(examples,)``; those not finite are left out.
        ids: What each example is resampled with, ``(examples,)``; None: each by itself.
        replicates: Of the bootstrap; 0 gives no interval.
        seed: Of the bootstrap.

    Example:
        >>> round(elasticity([1.0, 2.0, 4.0], [1.0, 4.0, 16.0]).value, 6)
        2.0
    """
    x, y, units = _usable(lengths, signal, np.arange(len(np.asarray(lengths))) if ids is None else ids)
    if len(x) < 3 or not y.any():
        count = int((y > 0).sum())
        return Estimate(math.nan, reason=f"needs at least 3 examples with a length and a signal, has {count}", n=len(x))
    if np.ptp(x) <= 1e-12:
        return Estimate(math.nan, reason="all examples have the same length", n=len(x))
    value = _solve(x, y)
    if not math.isfinite(value):
        return Estimate(value, reason="only the shortest or only the longest examples have a signal", n=len(x))
    left = y * np.exp(-value * x)
    left /= left.mean()
    columns = np.stack([np.ones_like(x), x, left, left * x, left * x * x], axis=1)
    names, sums = by_unit(units, columns)
    (step,) = studentized(sums[:, None], _newton_step, names, replicates=replicates, seed=seed)
    spread = step.interval
    if spread is not None:
        spread = Interval(value + spread.low, value + spread.high)
    return Estimate(value, spread, step.reason, n=len(x))


def misfit(lengths: ArrayLike, signal: ArrayLike, exponent: float) -> float:
    """Share of the signal that lies in other lengths than the law of this exponent predicts.

    Compared over tenths of the examples by length, or fewer groups where they would have less than 30 examples; NaN
    where there is no law, or only one group.
    """
    x, y, _ = _usable(lengths, signal, lengths)
    codes, bins = quantile_bins(x, max(3, min(10, len(x) // _FEW)))
    if not math.isfinite(exponent) or len(bins) < 2:
        return math.nan
    shares = np.bincount(codes, y) / y.sum()
    law = np.bincount(codes, np.exp(exponent * x))
    return float(np.abs(shares - law / law.sum()).sum() / 2.0)


def theil_sen(x: ArrayLike, y: ArrayLike, *, pairs: int = 200_000, seed: int = 0) -> float:
    """Median slope over pairs: all of them, or `pairs` drawn at random where there are more."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n = len(x)
    if n * (n - 1) // 2 <= pairs:
        i, j = np.triu_indices(n, 1)
    else:
        i, j = np.random.default_rng(seed).integers(0, n, (2, pairs))
    distinct = x[i] != x[j]
    if not distinct.any():
        return math.nan
    i, j = i[distinct], j[distinct]
    return float(np.median((y[j] - y[i]) / (x[j] - x[i])))


def cannot_tell(lengths: ArrayLike) -> str:
    """Why these lengths do not allow a statement about length, or an empty string."""
    lengths = np.asarray(lengths, dtype=np.float64)
    lengths = lengths[lengths > 0]
    if len(lengths) < 30:
        return f"{counted(len(lengths), 'example')} with trained tokens, fewer than 30"
    distinct = len(np.unique(lengths))
    if distinct == 1:
        return "all lengths are the same"
    if distinct < 5:
        return f"{distinct} distinct lengths, fewer than 5"
    low, high = np.quantile(lengths, (0.1, 0.9))
    if high / low < 1.5:
        return f"lengths hardly vary (90th over 10th percentile {high / low:.2f}, below 1.5)"
    return ""


def _usable(lengths: ArrayLike, signal: ArrayLike, ids: ArrayLike) -> tuple[Floats, Floats, Codes]:
    """Centred log length, signal and resampling unit of the examples with a length."""
    size, amounts = np.asarray(lengths, dtype=np.float64), np.asarray(signal, dtype=np.float64)
    keep = (size > 0) & np.isfinite(size) & np.isfinite(amounts)
    logs = np.log(size[keep])
    return logs - logs.mean() if len(logs) else logs, amounts[keep], np.asarray(ids)[keep]


def _newton_step(sums: NDArray[Any]) -> NDArray[Any]:
    """Newton's step of the equation over log signal, from sums of 1, x, and of the signal's rest times 1, x and x^2."""
    n, x, s, sx, sxx = np.moveaxis(sums, -1, 0)
    mean = sx / s
    return np.asarray((mean - x / n) / (sxx / s - mean * mean))


def _solve(x: Floats, y: Floats) -> float:
    """The root: the mean of x weighted by y e^(-bx) falls as b grows."""
    from scipy.optimize import brentq

    positions, logs = x[y > 0], np.log(y[y > 0])
    if not positions.min() < 0 < positions.max():
        return math.nan
    low, high = -1.0, 1.0

    def gap(b: float) -> float:
        power = logs - b * positions
        return float(np.exp(power - power.max()) @ positions)

    while gap(low) < 0:
        low *= 2.0
    while gap(high) > 0:
        high *= 2.0
    return float(brentq(gap, low, high, xtol=1e-13))
