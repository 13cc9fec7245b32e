"""The two shapes of a metric over examples.

Both keep what each example contributes, so that a metric can be resampled (`value` with weights) and stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sftloss.numbers import Floats


@dataclass(frozen=True)
class Ratio:
    r"""A ratio of sums over examples.

    .. math:: \sum_i w_i\,\mathrm{top}_i \Big/ \sum_i w_i\,\mathrm{bottom}_i

    For a mean over tokens `bottom` holds token counts, for a mean over examples ones. An example without a value (for
    example without a checker) has 0 in both.

    Attributes:
        top, bottom: ``(examples,)``.
    """

    top: Floats
    bottom: Floats

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len(self.top)

    def value(self, weights: Floats | None = None) -> float:
        """The ratio, example i counted ``weights[i]`` times (once by default); NaN where the bottom is zero.

        Example:
            >>> Ratio(np.array([1.0, 5.0]), np.array([1.0, 2.0])).value()
            2.0
        """
        bottom = self.bottom.sum() if weights is None else weights @ self.bottom
        top = self.top.sum() if weights is None else weights @ self.top
        return float(top / bottom) if bottom > 0 else float("nan")


@dataclass(frozen=True)
class Gap:
    r"""A distance between two distributions, bin by bin: calibration errors, Kolmogorov-Smirnov distances.

    .. math:: \Big\lVert \sum_i w_i\,\mathrm{gap}_{ib} \Big\rVert \Big/ \sum_i w_i\,\mathrm{size}_i

    Attributes:
        gap: What example i adds to the difference in bin b, ``(examples, bins)``.
        size: ``(examples,)``.
        norm: ``"sum"`` of the absolute bins (expected calibration error) or their ``"max"`` (Kolmogorov-Smirnov).
    """

    gap: Floats
    size: Floats
    norm: Literal["sum", "max"] = "sum"

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len(self.size)

    def value(self, weights: Floats | None = None) -> float:
        """The distance, example i counted ``weights[i]`` times (once by default); NaN where all sizes are zero.

        Example:
            >>> Gap(np.array([[1.0, 0.0], [-1.0, 2.0]]), np.array([2.0, 2.0])).value()
            0.5
        """
        size = self.size.sum() if weights is None else weights @ self.size
        bins = np.abs(self.gap.sum(axis=0) if weights is None else weights @ self.gap)
        if not size > 0:
            return float("nan")
        return float((bins.sum() if self.norm == "sum" else bins.max(initial=0.0)) / size)


Metric = Ratio | Gap


def read_metric(values: Mapping[str, Any]) -> Metric:
    """The :class:`Ratio` or :class:`Gap` whose fields, arrays as lists, are `values`."""
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in values.items() if name != "norm"}
    if "top" in arrays:
        return Ratio(**arrays)
    return Gap(**arrays, norm="max" if values["norm"] == "max" else "sum")
