r"""Differences between two arms, with an interval over examples *and* seeds.

Every arm is evaluated on the same examples and trained with the same seeds, so the differences form a table
:math:`D_{sc}`: seeds down, examples (or groups of examples that share a prompt) across, both drawn at random from
many. Its two-way analysis of variance gives the variance of the mean,

.. math:: \operatorname{Var}(\bar D) \le \frac{MS_{seeds} + MS_{examples}}{S\,C},

where the mean squares are of the table's margins. (The unbiased form subtracts the mean square of the interaction;
it is left in, which can only widen the interval: with two or three seeds the estimate is too poor to subtract from.)
Each part has its own Student quantile, of S - 1 degrees of freedom for seeds and C - 1 for examples:

.. math:: \text{half-width}^2 = \frac{t_{S-1}^2\,MS_{seeds} + t_{C-1}^2\,MS_{examples}}{S\,C}

(Banerjee, *Approximate confidence interval for linear functions of means of k populations*, Sankhyā 22, 1960). For
normal data it covers at least as often as it says, whatever the two variances: :math:`P(Z^2 \le x)` is concave in x,
so a mix of two parts covers at least as well as the worse of the two alone, and each alone is exact. Degrees of
freedom pooled from the estimates (Satterthwaite) do not: where three seeds happen to agree they take the spread of
seeds for none, and far out in the tail, where a family of verdicts lives, that is most of the errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from sftloss.document import Interval
from sftloss.numbers import Floats, t_quantile

POWER = 0.8


@dataclass(frozen=True)
class Part:
    """An independent part of the variance of a mean: its estimate and the degrees of freedom of that."""

    variance: float
    df: int


@dataclass(frozen=True)
class Mean:
    """An average over seeds and examples.

    Attributes:
        value: The estimate.
        parts: Of its variance: over examples and, with two seeds or more, over seeds; empty with too little data.
        seeds: Number of seeds. With one, the interval is over examples alone.
    """

    value: float
    parts: tuple[Part, ...]
    seeds: int

    @property
    def error(self) -> float:
        """The standard error; NaN where there is too little data."""
        return math.sqrt(sum(part.variance for part in self.parts)) if self.parts else math.nan

    def interval(self, level: float = 0.95) -> Interval | None:
        """Two-sided interval that covers at least `level` of normal data; None where there is too little data."""
        if not self.parts:
            return None
        half = math.sqrt(sum(part.variance * t_quantile(level, part.df) ** 2 for part in self.parts))
        return Interval(self.value - half, self.value + half, level)

    def detectable(self, level: float = 0.95) -> float:
        """The true difference that at least `POWER` of experiments of this size and noise would find.

        Its parts are where the estimate of each variance lies below in `POWER` of the experiments (the quantile of
        chi-squared by Wilson and Hilferty's cube), and the estimate itself.
        """
        normal = NormalDist().inv_cdf(POWER)
        high = ((1 - 2 / (9 * part.df) + normal * math.sqrt(2 / (9 * part.df))) ** 3 for part in self.parts)
        squares = (
            part.variance * most * t_quantile(level, part.df) ** 2 for part, most in zip(self.parts, high, strict=True)
        )
        return math.sqrt(sum(squares)) + normal * self.error


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
    """The mean of a table ``(seeds, groups of examples)`` with its error over both.

    Example:
        >>> crossed_mean(np.array([[1.0, 3.0], [1.0, 3.0]])).value
        2.0
    """
    table = np.atleast_2d(np.asarray(table, dtype=np.float64))
    seeds, count = table.shape
    dust = 1e-14 * np.abs(table).max(initial=0.0)  # what rounding leaves where tables are equal, or differences cancel
    value = float(table.mean())
    value = 0.0 if abs(value) <= dust else value
    if count < 2:
        return Mean(value, (), seeds)
    parts = tuple(Part(_variance(table.mean(axis=axis)), table.shape[1 - axis] - 1) for axis in (0, 1)[:seeds])
    if sum(part.variance for part in parts) * table.size <= dust**2:
        return Mean(value, (Part(0.0, count - 1),), seeds)
    return Mean(value, parts, seeds)


def _variance(means: Floats) -> float:
    """Of the mean of these means."""
    return float(means.var(ddof=1)) / len(means)


def _sums(codes: NDArray[np.int64], values: Floats) -> Floats:
    return np.asarray(np.bincount(codes, values), dtype=np.float64)
