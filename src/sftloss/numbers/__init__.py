"""Statistics in float64: correlations, the elasticity in length, shares, bootstrap intervals.

Lengths and signals are non-negative numbers of examples, as arrays of shape ``(examples,)``. What is undefined is NaN
with a reason, never 0. NumPy and SciPy are needed: the ``cli`` extra brings them.
"""

from __future__ import annotations

from sftloss.numbers.bootstrap import by_unit, poisson_weights, resampling_units
from sftloss.numbers.correlation import Correlation, partial_spearman, pearson, spearman
from sftloss.numbers.dependence import dependence
from sftloss.numbers.elasticity import BAD_FIT, cannot_tell, elasticity, misfit, theil_sen
from sftloss.numbers.estimate import Codes, Estimate, Floats, data_to_decide, decide, t_quantile
from sftloss.numbers.group_sums import GroupSums
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
from sftloss.numbers.noise_scale import NoiseScale, noise_scale
from sftloss.numbers.studentized import ratio_estimates, share_estimates, studentized

__all__ = [
    "BAD_FIT",
    "Codes",
    "Correlation",
    "Estimate",
    "Floats",
    "GroupSums",
    "NoiseScale",
    "by_unit",
    "cannot_tell",
    "concentration_curve",
    "concentration_index",
    "data_to_decide",
    "decide",
    "dependence",
    "elasticity",
    "gini",
    "kakwani",
    "kish_ess",
    "misfit",
    "noise_scale",
    "partial_spearman",
    "pearson",
    "poisson_weights",
    "quantile_bins",
    "ratio_estimates",
    "resampling_units",
    "share_estimates",
    "spearman",
    "studentized",
    "t_quantile",
    "theil_sen",
    "top_share",
    "weighted_quantile",
]
