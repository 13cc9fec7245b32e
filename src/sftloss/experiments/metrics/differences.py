r"""Differences of any metric between two arms, with an error over examples and seeds: by resampling.

For ratios :func:`~sftloss.experiments.verdicts.paired.crossed_mean` has the error in closed form. A calibration error
or a distance between distributions is no mean of anything, so here examples are resampled, the same draw for both arms
and all seeds, and the seeds' own differences vary as they do:

.. math:: \operatorname{Var} = \operatorname{Var}_{boot}\Big[\tfrac1S \sum_s d_s\Big]
    + \tfrac1S \cdot \tfrac1{S-1} \sum_s (d_s - \bar d)^2,

each part with its own Student quantile, as there. The design is crossed: every seed is judged on the same examples,
so an example that is drawn twice is drawn twice for all of them (Owen, *The pigeonhole bootstrap*, 2007). Resampling
examples afresh within each seed would take the same examples for new ones and make intervals too short by up to
:math:`\sqrt S`. What varies by example and seed together is counted in both terms, which can only widen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sftloss.experiments.metrics.shapes import Floats, Metric
from sftloss.experiments.verdicts.paired import Mean, Part
from sftloss.numbers import poisson_weights


def paired_difference(
    first: Sequence[Metric],
    second: Sequence[Metric],
    groups: NDArray[np.int64] | None = None,
    *,
    replicates: int = 500,
    seed: int = 0,
) -> Mean:
    """Metric of the first arm minus the second's, over seeds and examples.

    Args:
        first, second: One metric a training seed, in the same order of seeds, all of the same examples.
        groups: Code of each example's prompt; examples of one prompt are one draw. None: each its own.
        replicates: Resampled data sets.
        seed: Of the resampling: a hash of seed and example, so every metric and arm sees the same data sets.

    Returns:
        The mean over seeds of their differences, with its parts of the variance. With one seed there is only that
        over examples, which says nothing about another training.

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
    count = sizes.pop()
    codes = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1].ravel()
    values = _differences(first, second, None)
    units = int(codes.max(initial=-1)) + 1
    if units < 2:
        return Mean(float(values.mean()), (), len(first))
    weights = poisson_weights(codes.astype(np.int64), replicates, seed).astype(np.float64)
    drawn = np.array([_differences(first, second, line).mean() for line in weights])
    return _mean(values, drawn[np.isfinite(drawn)], replicates, units)


def _differences(first: Sequence[Metric], second: Sequence[Metric], weights: Floats | None) -> Floats:
    """Of each seed."""
    return np.array([a.value(weights) - b.value(weights) for a, b in zip(first, second, strict=True)])


def _mean(values: Floats, drawn: Floats, replicates: int, units: int) -> Mean:
    seeds, value = len(values), float(values.mean())
    if len(drawn) < 0.95 * replicates:  # the data cannot say, as in sftloss.analysis
        return Mean(value, (), seeds)
    by_seed = (Part(float(values.var(ddof=1)) / seeds, seeds - 1),) if seeds > 1 else ()
    return Mean(value, (Part(float(drawn.var(ddof=1)), units - 1), *by_seed), seeds)
