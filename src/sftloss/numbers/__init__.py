"""Statistics in float64: correlations, the elasticity in length, shares, bootstrap intervals.

Lengths and signals are non-negative numbers of examples, as arrays of shape ``(examples,)``. What is undefined is NaN
with a reason, never 0. NumPy and SciPy are needed: the ``cli`` extra brings them.
"""

from __future__ import annotations

from sftloss.numbers.bootstrap import GroupSums, interval, poisson_weights, ratio_interval, resampling_units
from sftloss.numbers.correlation import Correlation, partial_spearman, pearson, spearman
from sftloss.numbers.elasticity import BAD_FIT, cannot_tell, elasticity, misfit, theil_sen
from sftloss.numbers.estimate import Codes, Estimate, Floats, decide, t_quantile
from sftloss.numbers.inequality import (
    concentration_curve,
    concentration_index,
    gini,
    kakwani,
    kish_ess,
    quantile_bins,
    top_share,
    weighted_quantile,
)

__all__ = [
    "BAD_FIT",
    "Codes",
    "Correlation",
    "Estimate",
    "Floats",
    "GroupSums",
    "cannot_tell",
    "concentration_curve",
    "concentration_index",
    "decide",
    "elasticity",
    "gini",
    "interval",
    "kakwani",
    "kish_ess",
    "misfit",
    "partial_spearman",
    "pearson",
    "poisson_weights",
    "quantile_bins",
    "ratio_interval",
    "resampling_units",
    "spearman",
    "t_quantile",
    "theil_sen",
    "top_share",
    "weighted_quantile",
]
