r"""Means and differences over seeds and examples, with intervals that account for both.

Arms are evaluated on the same examples and trained with the same seeds, so the differences of two arms form a table
:math:`D_{sc}`: seeds down, examples (or groups of examples that share a prompt) across, both samples of many. The
interval of its mean is Banerjee's (*Approximate confidence interval for linear functions of means of k populations*,
Sankhyā 22, 1960) for the two-way analysis of variance, each part with its own Student quantile:

.. math:: \text{half-width}^2 = \frac{t_{S-1}^2\,MS_{seeds} + t_{C-1}^2\,MS_{examples}}{S\,C}

It covers normal data at least as often as stated, whatever the two variances: :math:`P(Z^2 \le x)` is concave in x, so
a mix of two parts covers at least as well as the worse of the two, and each alone is exact. The mean square of the
interaction is not subtracted, which can only widen the interval. ``docs/compare.md`` has derivation and simulation.

Differences of examples are often skewed: few of them change much. Student's interval then misses too often on the side
of the long tail. Each end is therefore at least as far out as Hall's cubic transformation puts it (*On the removal of
skewness by transformation*, 1992), with :math:`\gamma` the skewness of the C examples and :math:`a = \gamma/\sqrt C`:

.. math:: t(q) = \frac3a \Big[\big(1 + a\,(q - a/6)\big)^{1/3} - 1\Big]

Of right answers, which change seldom, a sample may show no change at all. Their variance is that of the sample with
:math:`t^2/4` examples added at each end of the range (as Agresti & Min, 2005, add one half at 95 %).

A calibration error is not a mean of anything, so :func:`paired_difference` resamples the examples, with the same draw
for both arms and all seeds (Owen, *The pigeonhole bootstrap*, 2007):

.. math:: \operatorname{Var} = \operatorname{Var}_{boot}\Big[\tfrac1S \sum_s d_s\Big]
    + \tfrac1S \cdot \tfrac1{S-1} \sum_s (d_s - \bar d)^2

Resampling afresh within each seed would make intervals too short by up to :math:`\sqrt S`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from sftloss.document import Interval
from sftloss.experiments.metrics.shapes import Metric
from sftloss.numbers import Codes, Floats, poisson_weights, t_quantile

POWER = 0.8
_FRAGILE = 0.3  # skewness over the root of the number of examples: the term that Hall's transformation removes


@dataclass(frozen=True)
class VariancePart:
    """An independent part of the variance of a mean.

    Attributes:
        variance: Its estimate.
        df: Degrees of freedom of the estimate: values that vary, less one.
        skewness: Of those values; 0 where it is not known.
        bound: Largest value that one of them can have where most are 0; 0 where there is no such value.
    """

    variance: float
    df: int
    skewness: float = 0.0
    bound: float = 0.0

    def half_widths(self, level: float) -> tuple[float, float]:
        """Its part of the interval below and above the mean."""
        quantile, count = t_quantile(level, self.df), self.df + 1
        error = math.sqrt(self.variance + 0.5 * (quantile * self.bound) ** 2 / (count * max(self.df, 1)))
        tilt = self.skewness / math.sqrt(count)
        if abs(tilt) < 1e-6:
            return error * quantile, error * quantile
        hall = [3.0 / tilt * (math.cbrt(1.0 + tilt * (q - tilt / 6.0)) - 1.0) for q in (quantile, -quantile)]
        return error * max(quantile, hall[0]), error * max(quantile, -hall[1])


@dataclass(frozen=True)
class Mean:
    """An average over seeds and examples.

    Attributes:
        value: The estimate.
        parts: Parts of its variance: over examples and, with two seeds or more, over seeds. Empty: too little data.
        seeds: Number of seeds. With one, the interval is over examples alone.
    """

    value: float
    parts: tuple[VariancePart, ...]
    seeds: int

    @property
    def error(self) -> float:
        """The standard error; NaN where there is too little data."""
        return math.sqrt(sum(part.variance for part in self.parts)) if self.parts else math.nan

    def interval(self, level: float = 0.95) -> Interval | None:
        """Two-sided interval that covers at least `level` of normal data; None where there is too little data."""
        if not self.parts:
            return None
        low, high = (math.hypot(*side) for side in zip(*(part.half_widths(level) for part in self.parts), strict=True))
        return Interval(self.value - low, self.value + high, level)

    @property
    def is_fragile(self) -> bool:
        """Whether few examples decide the mean, so that even the corrected interval may miss more often than stated."""
        return any(abs(part.skewness) > _FRAGILE * math.sqrt(part.df + 1) for part in self.parts)

    def detectable(self, level: float = 0.95) -> float:
        """The smallest true difference that at least `POWER` of experiments of this size and noise would find.

        It is the half-width that `POWER` of the experiments stay below (their estimates of each variance follow
        chi-squared), plus what their estimates of the difference fall short of the truth.
        """
        squares = (
            special.chdtri(part.df, 1.0 - POWER) / part.df * max(part.half_widths(level)) ** 2 for part in self.parts
        )
        return float(math.sqrt(sum(squares)) + special.ndtri(POWER) * self.error)


def linearised(top: Floats, bottom: Floats, groups: Codes | None = None) -> Floats:
    r"""What each group of examples adds to a ratio of sums, for each seed (delta method).

    .. math:: D_{sg} = \theta_s + \frac{\mathrm{top}_{sg} - \theta_s\,\mathrm{bottom}_{sg}}
        {\overline{\mathrm{bottom}}_s}, \qquad
        \theta_s = \sum_g \mathrm{top}_{sg} \Big/ \sum_g \mathrm{bottom}_{sg}

    The mean of a row of D is exactly its ratio.

    Args:
        top, bottom: ``(seeds, examples)``; token counts at the bottom for a mean over tokens, ones for one over
            examples. Each row of `bottom` has a positive sum.
        groups: Code of each example's prompt; examples of one prompt are one draw. None: each its own. Keep the order
            of the examples: tables of two arms are then aligned.

    Returns:
        ``(seeds, groups)``.
    """
    codes = _codes(groups, top.shape[1])
    top, bottom = (np.stack([np.bincount(codes, row).astype(np.float64) for row in side]) for side in (top, bottom))
    ratio = top.sum(axis=1, keepdims=True) / bottom.sum(axis=1, keepdims=True)
    return np.asarray(ratio + (top - ratio * bottom) / bottom.mean(axis=1, keepdims=True))


def crossed_mean(table: Floats, bound: float = 0.0) -> Mean:
    """The mean of a table ``(seeds, groups of examples)`` with its error over both.

    Args:
        table: What each group of examples adds, for each seed.
        bound: Largest size of an entry, for a measure that changes in few examples; 0: it is not known.

    Example:
        >>> crossed_mean(np.array([[1.0, 3.0], [1.0, 3.0]])).value
        2.0
    """
    table = np.atleast_2d(np.asarray(table, dtype=np.float64))
    seeds, count = table.shape
    rounding = 1e-14 * np.abs(table).max(initial=0.0)  # what is left where tables are equal, or differences cancel
    value = float(table.mean())
    value = 0.0 if abs(value) <= rounding else value
    if count < 2:
        return Mean(value, (), seeds)
    parts = tuple(_part(table.mean(axis=axis)) for axis in (0, 1)[:seeds])
    if sum(part.variance for part in parts) * table.size <= rounding**2:
        return Mean(value, (VariancePart(0.0, count - 1, bound=bound),), seeds)
    of_examples = table.mean(axis=0) - table.mean()
    # of a measure with a bound the examples added at its ends stand for the tail that was not seen
    cubed = float((of_examples**2).mean()) ** 1.5
    skewness = 0.0 if bound or not cubed else float((of_examples**3).mean()) / cubed
    return Mean(value, (replace(parts[0], skewness=skewness, bound=bound), *parts[1:]), seeds)


def paired_difference(
    first: Sequence[Metric],
    second: Sequence[Metric],
    groups: Codes | None = None,
    *,
    replicates: int = 500,
    seed: int = 0,
) -> Mean:
    """Any metric of the first arm minus the second's, over seeds and examples, by resampling the examples.

    Args:
        first, second: One metric per training seed, in the same order of seeds, all of the same examples.
        groups: Code of each example's prompt; examples of one prompt are one draw. None: each its own.
        replicates: Number of resampled data sets.
        seed: Seed of the resampling. A draw is a hash of seed and example, so all metrics and arms get the same data
            sets.

    Returns:
        The mean over seeds of the differences, with the parts of its variance.

    Raises:
        ValueError: If the two do not have the same seeds and examples.

    Example:
        >>> from sftloss.experiments.metrics import Ratio
        >>> better, worse = (Ratio(np.array(values), np.ones(2)) for values in ([1.0, 2.0], [2.0, 4.0]))
        >>> paired_difference([better], [worse]).value
        -1.5
    """
    sizes = {metric.examples for metric in (*first, *second)}
    if len(first) != len(second) or len(sizes) != 1:
        raise ValueError(
            f"paired_difference: {len(first)} and {len(second)} seeds, examples {sorted(sizes)}; "
            "give both arms the same seeds and the same held-out rows."
        )
    codes = _codes(groups, sizes.pop())
    by_seed = _differences(first, second, None)
    value, seeds, units = float(by_seed.mean()), len(by_seed), int(codes.max(initial=-1)) + 1
    if units < 2:
        return Mean(value, (), seeds)
    weights = poisson_weights(codes, replicates, seed).astype(np.float64)
    resampled = np.array([_differences(first, second, line).mean() for line in weights])
    defined = resampled[np.isfinite(resampled)]
    if len(defined) < 0.95 * replicates:  # too little data, as in sftloss.numbers.interval
        return Mean(value, (), seeds)
    parts = (VariancePart(float(defined.var(ddof=1)), units - 1), *([_part(by_seed)] if seeds > 1 else []))
    return Mean(value, parts, seeds)


def _codes(groups: Codes | None, count: int) -> Codes:
    return np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1].ravel().astype(np.int64)


def _differences(first: Sequence[Metric], second: Sequence[Metric], weights: Floats | None) -> Floats:
    """The difference of each seed, ``(seeds,)``."""
    return np.array([a.value(weights) - b.value(weights) for a, b in zip(first, second, strict=True)])


def _part(means: Floats) -> VariancePart:
    """The variance of the mean of independent values."""
    return VariancePart(float(means.var(ddof=1)) / len(means), len(means) - 1)
