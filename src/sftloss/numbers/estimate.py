"""An estimate with its interval, or the reason why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sftloss.document import Interval

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: The estimate; NaN where it is undefined.
        interval: Its confidence interval; None where there is none.
        reason: Why something is undefined; empty otherwise.
        n: Number of observations used; 0 where it was not counted.
    """

    value: float
    interval: Interval | None = None
    reason: str = ""
    n: int = 0

    @property
    def is_defined(self) -> bool:
        """Whether there is a value."""
        return math.isfinite(self.value)

    def times(self, factor: float) -> Estimate:
        """The estimate of a multiple, `factor` above 0."""
        ends = None if self.interval is None else (factor * self.interval.low, factor * self.interval.high)
        return replace(self, value=factor * self.value, interval=None if ends is None else Interval(*ends))

    def plain(self) -> dict[str, Any]:
        """The estimate as JSON has it: ``value``, ``low``, ``high`` (None where undefined), ``n``, ``reason``."""
        low, high = (None, None) if self.interval is None else (self.interval.low, self.interval.high)
        value = self.value if self.is_defined else None
        return {"value": value, "low": low, "high": high, "n": self.n, "reason": self.reason}


def decide(estimate: Estimate, target: float, *, margin: float = 0.1) -> str:
    """Compare an interval with a region of practical equivalence, ``target`` plus or minus ``margin``.

    Returns:
        "on target", "off target" (the whole interval is outside), "inconclusive" or "insufficient data".
    """
    if estimate.interval is None or not estimate.is_defined:
        return "insufficient data"
    low, high = estimate.interval.low - target, estimate.interval.high - target
    if low >= -margin and high <= margin:
        return "on target"
    return "off target" if low > margin or high < -margin else "inconclusive"


def data_to_decide(estimate: Estimate, target: float, *, margin: float = 0.1) -> float:
    """How many times as much data :func:`decide` needs, if the value stays and the interval shrinks with its root.

    Infinite where the value lies at the edge of the region, NaN where there is no interval.

    Example:
        >>> data_to_decide(Estimate(1.3, Interval(0.9, 1.7)), 1.0)
        4.0
    """
    if estimate.interval is None or not estimate.is_defined:
        return math.nan
    distance = abs(abs(estimate.value - target) - margin)
    width = max(estimate.interval.high - estimate.value, estimate.value - estimate.interval.low)
    return round((width / distance) ** 2, 9) if distance > 0 else math.inf


@cache
def t_quantile(level: float, df: float) -> float:
    """Half-width of a two-sided interval of coverage ``level``, in standard errors: Student's t.

    Example:
        >>> round(t_quantile(0.95, 2), 3)
        4.303
    """
    from scipy import stats

    return float(stats.t.isf((1.0 - level) / 2.0, df))
