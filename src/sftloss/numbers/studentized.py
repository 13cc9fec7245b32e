r"""Intervals of smooth functions of sums over units, by the studentized bootstrap.

A unit is what is resampled: an example, or all examples of one prompt. Each replicate counts the units anew and
computes the statistic :math:`\theta^*` and its own standard error :math:`s^*`. The distribution of

.. math:: t^* = \frac{g(\theta^*) - g(\hat\theta)}{g'(\theta^*)\,s^*}

stands for that of :math:`t = (g(\hat\theta) - g(\theta)) / (g'(\hat\theta)\,\hat s)` (Hall, *The Bootstrap and
Edgeworth Expansion*, 1992). Percentile intervals cover too rarely where there are few units or skewed ones, because
the standard error is estimated from the same few values; here its error is part of the distribution. On the scale g
the ends stay in the range of the statistic.

A few units show too little of a long tail. The quantile on that side is therefore taken further out, by the size of
the skewness term of the Edgeworth expansion, :math:`|\gamma| / \sqrt{n}`, in which :math:`\gamma` is the skewness of
the units' influence. ``python -m benchmarks.coverage`` simulates what is covered; ``docs/intervals.md`` has the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sftloss.document import Interval
from sftloss.numbers.bootstrap import REPLICATES, unit_weights
from sftloss.numbers.estimate import Codes, Estimate, Floats

LEAST_UNITS = 5
"""With fewer units there is no interval."""
LEAST_MEMBERS = 10
"""With fewer units in a group, or outside it, its share has no interval."""
_TAIL = 0.025  # probability of each tail where influences are symmetric; intervals have level 1 - 2 of it
_SKEWED = 3.0  # the tail is shortest from |skewness| / sqrt(units) = 1/3 on
_ROUNDING = 1e-7  # of float32, in which tables are measured
_SHORTEST = 0.1  # of the tail's probability


@dataclass(frozen=True)
class Scale:
    """A monotone scale g on which a statistic is closer to symmetric: g, its slope, and its inverse."""

    to: Callable[[Floats], Floats]
    slope: Callable[[Floats], Floats]
    back: Callable[[Floats], Floats]


PLAIN = Scale(lambda x: x, np.ones_like, lambda x: x)
LOG = Scale(np.log, lambda x: 1.0 / x, np.exp)
LOGIT = Scale(lambda x: np.log(x) - np.log1p(-x), lambda x: 1.0 / (x * (1.0 - x)), lambda x: 1.0 / (1.0 + np.exp(-x)))

Statistic = Callable[[NDArray[Any]], NDArray[Any]]
"""From sums ``(..., cells, columns)`` to values ``(..., cells)``; of arithmetic alone, because sums may be complex."""


def studentized(
    columns: Floats,
    statistic: Statistic,
    units: Codes,
    *,
    scale: Scale = PLAIN,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[Estimate]:
    """Estimates of a statistic of sums, each with its 95 % interval or the reason why there is none.

    Args:
        columns: What each unit adds to the sums, ``(units, cells, columns)``. Each cell is a question of its own.
        statistic: The value of all cells. It does not change when all sums are multiplied by one number.
        units: Distinct ids of the units, ``(units,)``, which decide the draws.
        scale: Scale of the intervals; its range has every value inside.
        replicates: Of the bootstrap; 0 gives no intervals.
        seed: Of the bootstrap.
    """
    count, cells, width = columns.shape
    with np.errstate(all="ignore"):
        value = statistic(columns.sum(axis=0))
        # the jackknife's error: where few units decide, the delta method's is too small
        without = statistic(columns.sum(axis=0) - columns)
        influence = without.mean(axis=0) - without
        error = np.sqrt((influence**2).sum(axis=0) * (count - 1) / count)
        if not replicates or count < LEAST_UNITS:
            reason = f"{count} independent prompts or examples, fewer than {LEAST_UNITS}" if replicates else ""
            return [Estimate(float(one), reason=reason, n=count) for one in value]
        squares = (columns[..., :, None] * columns[..., None, :]).reshape(count, -1)
        weights = unit_weights(units, replicates, seed).astype(np.float64)
        sums = (weights @ columns.reshape(count, -1)).reshape(replicates, cells, width)
        values, gradients = statistic(sums), _gradient(statistic, sums)
        products = (weights @ squares).reshape(replicates, cells, width, width)
        variance = np.einsum("rcv,rcvw,rcw->rc", gradients, products, gradients) * count / (count - 1)
        t = (scale.to(values) - scale.to(value)) / (scale.slope(values) * np.sqrt(np.maximum(variance, 0.0)))
        skewness = (influence**3).mean(axis=0) / (influence**2).mean(axis=0) ** 1.5
        # an error that is only the rounding of what the columns add to the value and take away again is none
        size = np.abs(columns * _gradient(statistic, columns.sum(axis=0))).sum(axis=2)
        error[error < _ROUNDING * np.sqrt((size**2).sum(axis=0))] = 0.0
        step = scale.slope(value) * error
    bare = [Estimate(float(one), n=count) for one in value]
    return [_estimate(*of) for of in zip(bare, [scale] * cells, t.T, step.tolist(), skewness.tolist(), strict=True)]


def _gradient(statistic: Statistic, sums: Floats) -> Floats:
    """The derivatives in each column, by a complex step, which is exact to rounding (Squire & Trapp, 1998)."""
    steps = 1e-30j * np.eye(sums.shape[-1])
    return np.stack([statistic(sums + step).imag for step in steps], axis=-1) * 1e30


def _estimate(bare: Estimate, scale: Scale, t: Floats, step: float, skewness: float) -> Estimate:
    """The estimate with the interval from the replicates of t."""
    if step < 1e-12:  # all units agree
        return replace(bare, interval=Interval(bare.value, bare.value))
    if not (np.isfinite(step) and np.isfinite(skewness)):
        return bare
    long = _TAIL * (1.0 - (1.0 - _SHORTEST) * min(1.0, _SKEWED * abs(skewness) / np.sqrt(bare.n)))
    # positive influences have the long tail: then t is rarely very small, and the upper end lies further out
    tails = (long, 1.0 - _TAIL) if skewness > 0 else (_TAIL, 1.0 - long)
    least, most = np.quantile(np.nan_to_num(t, nan=0.0), tails, method="closest_observation")
    with np.errstate(over="ignore"):
        ends = scale.back(scale.to(np.array(bare.value)) - np.array([most, least]) * step)
    if not np.isfinite(ends).all():
        return replace(bare, reason="a few prompts or examples decide the value")
    return replace(bare, interval=Interval(float(ends[0]), float(ends[1])))


def ratio_estimates(
    top: Floats, bottom: Floats, units: Codes, *, scale: Scale = LOG, replicates: int = REPLICATES, seed: int = 0
) -> list[Estimate]:
    """Ratios of sums, one for each column of `top` and `bottom`, ``(units, cells)``, both ``>= 0``; x/0 is NaN.

    Example:
        >>> import numpy as np
        >>> lengths = np.array([[2.0], [4.0], [3.0], [5.0], [6.0]])
        >>> ratio_estimates(lengths, np.ones_like(lengths), np.arange(5))[0].value
        4.0
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        size = bottom.sum(axis=0)
        ratio = np.where(size > 0, top.sum(axis=0) / size, np.nan)

    # what is left of each ratio, so that units that agree differ by exactly nothing
    left = top - np.where(np.isfinite(ratio), ratio, 0.0) * bottom
    columns = np.stack([left, bottom], axis=2)
    estimates = studentized(
        columns, lambda sums: ratio + sums[..., 0] / sums[..., 1], units, scale=scale, replicates=replicates, seed=seed
    )
    return [replace(one, value=float(exact)) for one, exact in zip(estimates, ratio, strict=True)]


def share_estimates(
    part: Floats, whole: Floats, units: Codes, *, replicates: int = REPLICATES, seed: int = 0
) -> list[Estimate]:
    """Shares ``part / whole`` of sums, ``(units, cells)`` each, with ``0 <= part <= whole``.

    A share of few units depends on how many of them happened to be drawn, of which a bootstrap shows too little:
    at least `LEAST_MEMBERS` units must have a part, and as many something outside it. With fewer, the interval is the
    exact one of a binomial count (Clopper & Pearson, 1934) where every unit is one row, and there is none elsewhere.
    """
    estimates = ratio_estimates(part, whole, units, scale=LOGIT, replicates=replicates, seed=seed)
    members, others = (part > 0).sum(axis=0), (part < whole).sum(axis=0)
    are_counts = ((whole == 1) & ((part == 0) | (part == 1))).all(axis=0)
    for cell, one in enumerate(estimates):
        few = int(min(members[cell], others[cell]))
        if replicates and few < LEAST_MEMBERS and np.isfinite(one.value):
            exact = _binomial(int(members[cell]), len(units)) if are_counts[cell] else None
            estimates[cell] = replace(one, interval=exact, reason="" if exact else few_members(few))
    return estimates


def _binomial(count: int, of: int) -> Interval:
    from scipy import stats

    exact = stats.binomtest(count, of).proportion_ci(0.95)
    return Interval(float(exact.low), float(exact.high))


def few_members(count: int) -> str:
    """Why a group of so few units has no interval."""
    return f"{count} prompts or examples, fewer than {LEAST_MEMBERS}"
