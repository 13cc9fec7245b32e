"""The two shapes every metric has, so that any of them can be resampled over examples and written to disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sftloss.numbers import Floats


class Metric(Protocol):
    """A number of a held-out set that knows what each example contributes."""

    @property
    def examples(self) -> int:
        """Number of examples."""

    def value(self, weights: Floats | None = None) -> float:
        """The number, each example counted ``weights[i]`` times (once by default); NaN where it does not exist."""

    def pick(self, chosen: NDArray[Any]) -> Metric:
        """The same metric of some of the examples: indices or booleans."""


@dataclass(frozen=True)
class Ratio:
    r"""A ratio of sums over examples.

    .. math:: \sum_i w_i\,\mathrm{top}_i \Big/ \sum_i w_i\,\mathrm{bottom}_i

    A mean over tokens has the token counts at the bottom, a mean over examples has ones, and an example that has no
    value (no checker) has zero in both.

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
        """The ratio; NaN where the bottom is zero.

        Example:
            >>> Ratio(np.array([1.0, 5.0]), np.array([1.0, 2.0])).value()
            2.0
        """
        bottom = self.bottom.sum() if weights is None else weights @ self.bottom
        top = self.top.sum() if weights is None else weights @ self.top
        return float(top / bottom) if bottom > 0 else float("nan")

    def pick(self, chosen: NDArray[Any]) -> Ratio:
        """Some of the examples."""
        return Ratio(self.top[chosen], self.bottom[chosen])


@dataclass(frozen=True)
class Gap:
    r"""How far two distributions lie apart, bin by bin: calibration errors and distances between distributions.

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
        """The distance; NaN where there is nothing.

        Example:
            >>> Gap(np.array([[1.0, 0.0], [-1.0, 2.0]]), np.array([2.0, 2.0])).value()
            0.5
        """
        size = self.size.sum() if weights is None else weights @ self.size
        bins = np.abs(self.gap.sum(axis=0) if weights is None else weights @ self.gap)
        if not size > 0:
            return float("nan")
        return float((bins.sum() if self.norm == "sum" else bins.max(initial=0.0)) / size)

    def pick(self, chosen: NDArray[Any]) -> Gap:
        """Some of the examples."""
        return Gap(self.gap[chosen], self.size[chosen], self.norm)


def by_group(metric: Metric, labels: NDArray[np.str_]) -> dict[str, Metric]:
    """The metric of each group of examples: of each task, of each language.

    Args:
        metric: Any.
        labels: Group of each example, ``(examples,)``; an empty label is no group.
    """
    return {str(name): metric.pick(labels == name) for name in np.unique(labels) if name}


def read_metric(values: Mapping[str, Any]) -> Metric:
    """The metric whose fields, arrays as lists, are `values`: what JSON keeps of a :class:`Ratio` or a :class:`Gap`."""
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in values.items() if name != "norm"}
    if "top" in arrays:
        return Ratio(**arrays)
    return Gap(**arrays, norm="max" if values["norm"] == "max" else "sum")
