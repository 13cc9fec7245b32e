"""How signal grows with length: the exponent of a power law, its interval, and how badly the law fits."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sftloss.analysis.shared.bootstrap import REPLICATES, GroupSums, interval
from sftloss.analysis.shared.numbers import Estimate, quantile_bins

Floats = NDArray[np.float64]
BAD_FIT = 0.1  # share of the signal in other lengths than the law says, from which on no exponent is advised
_FEW = 30  # examples a group of lengths needs before its part of the signal says anything about the law


def elasticity(
    lengths: ArrayLike, signal: ArrayLike, ids: ArrayLike, *, replicates: int = REPLICATES, seed: int = 0
) -> Estimate:
    r"""Exponent :math:`\beta` in :math:`E[S|L] = a L^\beta`, mean signal in length, with a pairs-bootstrap interval.

    .. math:: \sum_i S_i L_i^{-\beta} (\log L_i - \overline{\log L}) = 0

    This is the gamma quasi-likelihood with a log link (Wedderburn, 1974; Santos Silva & Tenreyro, 2006, compare such
    estimators): the noise may grow with the signal and examples without any count as they are. The least-squares
    slope of the logarithms describes the median example instead, and one signal of 1e-9 decides it. It is the power
    of length by which to divide so that long and short examples hold alike: what a normalization changes.

    1: signal in proportion to length; 0: the same for every example; below 0: short examples get more.
    The interval takes one Newton step from the estimate for each replicate.
    """
    x, y, units = _usable(lengths, signal, ids)
    if len(x) < 3 or not y.any():
        return Estimate(float("nan"), reason=f"{int((y > 0).sum())} examples with a length and a signal")
    if np.ptp(x) == 0:
        return Estimate(float("nan"), reason="all examples have the same length")
    value = _solve(x, y)
    if not np.isfinite(value):
        return Estimate(value, reason="only the shortest or only the longest examples have a signal")
    left = y * np.exp(-value * x)
    left /= left.mean()
    columns = np.stack([np.ones_like(x), x, left, left * x, left * x * x], axis=1)
    sums = GroupSums(1, 5, replicates=replicates, seed=seed).add(units, columns)
    return Estimate(value, interval(value + _step(*np.moveaxis(sums.replicates[:, 0], -1, 0))))


def misfit(lengths: ArrayLike, signal: ArrayLike, value: float) -> float:
    """Share of the signal that lies in other lengths than the law of exponent `value` says.

    Compared over tenths of the examples by length, or fewer groups where they would have less than 30 examples; NaN
    where there is no law, or only one group.
    """
    x, y, _ = _usable(lengths, signal, lengths)
    codes, bins = quantile_bins(x, max(3, min(10, len(x) // _FEW)))
    if not np.isfinite(value) or len(bins) < 2:
        return float("nan")
    held = np.bincount(codes, y) / y.sum()
    law = np.bincount(codes, np.exp(value * x))
    return float(np.abs(held - law / law.sum()).sum() / 2.0)


def _usable(lengths: ArrayLike, signal: ArrayLike, ids: ArrayLike) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Centred log length, signal and resampling unit of the examples with a length."""
    size, held = np.asarray(lengths, dtype=np.float64), np.asarray(signal, dtype=np.float64)
    keep = (size > 0) & np.isfinite(held)
    logs = np.log(size[keep])
    return logs - logs.mean() if len(logs) else logs, held[keep], np.asarray(ids)[keep]


def _step(n: Floats, x: Floats, s: Floats, sx: Floats, sxx: Floats) -> Floats:
    """Newton's step of the equation over log signal: from sums of 1, x, and of what is left of the signal times x^k."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sx / s
        return (mean - x / n) / (sxx / s - mean * mean)


def _solve(x: Floats, y: Floats) -> float:
    """Bisection: the mean of x weighted by y e^(-bx) falls as b grows."""
    held, positions = y[y > 0], x[y > 0]
    if not positions.min() < 0 < positions.max():
        return float("nan")
    low, high, logs = -1.0, 1.0, np.log(held)

    def gap(b: float) -> float:
        power = logs - b * positions
        return float(np.exp(power - power.max()) @ positions)

    while gap(low) < 0:
        low *= 2.0
    while gap(high) > 0:
        high *= 2.0
    for _ in range(44):
        middle = (low + high) / 2.0
        low, high = (middle, high) if gap(middle) > 0 else (low, middle)
    return (low + high) / 2.0
