r"""Differences between two arms, with an interval over examples *and* seeds.

Every arm is evaluated on the same examples and trained with the same seeds, so the differences form a table
:math:`D_{sc}`: seeds down, examples (or groups of examples that share a prompt) across, both drawn at random from
many. Its two-way analysis of variance gives the variance of the mean,

.. math:: \operatorname{Var}(\bar D) \le \frac{MS_{seeds} + MS_{examples}}{S\,C},

where the mean squares are of the table's margins. (The unbiased form subtracts the mean square of the interaction;
it is left in, which can only widen the interval: with two or three seeds the estimate is too poor to subtract from.)
The degrees of freedom are Satterthwaite's: many where examples are what varies, seeds less one where seeds are.
This is the quasi-F of repeated measurements with two random factors (Clark 1973), as an interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sftloss.analysis.document import Interval
from sftloss.experiments._student import t_quantile, t_tail

Floats = NDArray[np.float64]
POWER = 0.8


@dataclass(frozen=True)
class Mean:
    """An average over seeds and examples.

    Attributes:
        value: The estimate.
        error: Its standard error; NaN where there is too little data.
        df: Satterthwaite's degrees of freedom.
        seeds: Number of seeds. With one, `error` is over examples alone.
    """

    value: float
    error: float
    df: float
    seeds: int

    def interval(self, level: float = 0.95) -> Interval | None:
        """Two-sided t interval; None where there is too little data."""
        if not self.error >= 0:
            return None
        half = self.error * t_quantile(0.5 + level / 2.0, self.df) if self.error else 0.0
        return Interval(self.value - half, self.value + half, level)

    @property
    def p(self) -> float:
        """Two-sided p of "the mean is zero"."""
        if not self.error > 0:
            return 1.0 if self.value == 0 or math.isnan(self.error) else 0.0
        return t_tail(self.value / self.error, self.df)

    def detectable(self, level: float = 0.95) -> float:
        """The smallest true difference that an experiment of this size and noise finds in `POWER` of its runs."""
        if not self.error >= 0:
            return math.nan
        return self.error * (t_quantile(0.5 + level / 2.0, self.df) + t_quantile(POWER, self.df))


def linearised(top: Floats, bottom: Floats, groups: NDArray[np.int64] | None = None) -> Floats:
    r"""What each group of examples adds to a ratio of sums, for each seed (delta method).

    .. math:: D_{sg} = \theta_s + \frac{\mathrm{top}_{sg} - \theta_s\,\mathrm{bottom}_{sg}}
        {\overline{\mathrm{bottom}}_s}, \qquad
        \theta_s = \sum_g \mathrm{top}_{sg} \Big/ \sum_g \mathrm{bottom}_{sg}

    A row's mean is exactly its ratio.

    Args:
        top, bottom: ``(seeds, examples)``; token counts at the bottom for a mean over tokens, ones for one over
            examples. Each row of `bottom` has a positive sum.
        groups: Code of each example's prompt; examples of one prompt are one draw. None: each its own. Keep the order
            of the examples: tables of two arms are then aligned.

    Returns:
        ``(seeds, groups)``.
    """
    codes = np.arange(top.shape[1]) if groups is None else np.unique(groups, return_inverse=True)[1].ravel()
    top, bottom = (np.stack([_sums(codes, row) for row in side]) for side in (top, bottom))
    ratio = top.sum(axis=1, keepdims=True) / bottom.sum(axis=1, keepdims=True)
    return np.asarray(ratio + (top - ratio * bottom) / bottom.mean(axis=1, keepdims=True))


def crossed_mean(table: Floats) -> Mean:
    """The mean of a table ``(seeds, groups of examples)`` with its standard error over both.

    Example:
        >>> crossed_mean(np.array([[1.0, 3.0], [1.0, 3.0]])).value
        2.0
    """
    table = np.atleast_2d(np.asarray(table, dtype=np.float64))
    if table.shape[1] < 2:
        return Mean(float(table.mean()), math.nan, 1.0, len(table))
    error, df = _error(table)
    return Mean(float(table.mean()), error, df, len(table))


def _sums(codes: NDArray[np.int64], values: Floats) -> Floats:
    return np.asarray(np.bincount(codes, values), dtype=np.float64)


def _error(table: Floats) -> tuple[float, float]:
    seeds, count = table.shape
    whole = table.mean()
    by_example = seeds * ((table.mean(axis=0) - whole) ** 2).sum() / (count - 1)
    parts = [(float(by_example), count - 1)]
    if seeds > 1:
        parts.append((float(count * ((table.mean(axis=1) - whole) ** 2).sum() / (seeds - 1)), seeds - 1))
    total = sum(square for square, _ in parts)
    # equal tables differ by rounding alone
    if total <= (1e-14 * np.abs(table).max()) ** 2:
        return 0.0, float(count - 1)
    return math.sqrt(total / (seeds * count)), total**2 / sum(square**2 / df for square, df in parts)
