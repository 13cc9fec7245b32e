"""A few closed-form statistics in float64: correlations, elasticity, bootstrap intervals. Nothing but torch.

What cannot be computed is None with a reason, never a zero that looks like a finding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 1 << 22  # resampled weights held at once: 32 MiB of float64


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, or the reason why there is none.

    Attributes:
        value: The estimate, None where it does not exist.
        low, high: Ends of the interval, None where it does not exist.
        n: Number of observations used.
        reason: Why something is None, or what was left out; empty otherwise.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str = ""


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient with the two-sided p-value of "none", or the reason why there is none."""

    r: float | None
    p: float | None
    n: int
    reason: str = ""


def midranks(values: Tensor) -> Tensor:
    """Ranks from 1, equal values sharing the mean of their ranks, ``(n,)``, float64.

    Example:
        >>> midranks(torch.tensor([3.0, 1.0, 3.0]))
        tensor([2.5000, 1.0000, 2.5000], dtype=torch.float64)
    """
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[inverse]


def pearson(x: Tensor, y: Tensor) -> Correlation:
    """Linear correlation; p by Fisher's z, a normal approximation that needs four observations.

    Raises:
        ValueError: If the two are not flat and of one length.
    """
    x, y = _pair("pearson", x, y)
    n = x.numel()
    if n < 3:
        return Correlation(None, None, n, f"needs at least 3 observations, there are {n}")
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        return Correlation(None, None, n, "a value is NaN or infinite")
    if _is_constant(x) or _is_constant(y):
        return Correlation(None, None, n, "one of the two is constant")
    x, y = x - x.mean(), y - y.mean()
    r = float((x @ y) / (x.norm() * y.norm()))
    r = max(-1.0, min(1.0, r))
    if n < 4:
        return Correlation(r, None, n, "p needs at least 4 observations")
    p = 0.0 if abs(r) == 1 else math.erfc(abs(math.atanh(r)) * math.sqrt((n - 3) / 2))
    return Correlation(r, p, n)


def spearman(x: Tensor, y: Tensor) -> Correlation:
    """Rank correlation: :func:`pearson` of the :func:`midranks`. NaN has no rank, so it gives None."""
    x, y = _pair("spearman", x, y)
    if bool(torch.isnan(x).any() or torch.isnan(y).any()):
        return Correlation(None, None, x.numel(), "a value is NaN or infinite")
    return pearson(midranks(x), midranks(y))


def slope(x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
    """Least-squares slope of y on x, one for each row of weights ``(resamples, n)``; NaN where x does not vary."""
    x, y = _pair("slope", x, y)
    x, y = x - x.mean(), y - y.mean()
    if weights is None:
        weights = torch.ones(1, x.numel(), dtype=x.dtype)
    total = weights.sum(dim=1)
    sx, sy = weights @ x, weights @ y
    across, spread = total * (weights @ (x * y)) - sx * sy, total * (weights @ (x * x)) - sx * sx
    # a resample of one length repeated has no slope, and rounding must not invent one
    return torch.where(spread > 1e-12 * total * total * (x * x).sum(), across / spread, math.nan).squeeze()


def elasticity(
    amounts: Tensor, lengths: Tensor, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Estimate:
    r"""Slope of log amount on log length: 1 is proportional to length, 0 independent of it, below 0 favours the short.

    .. math:: \beta = \operatorname{cov}(\log S, \log T) / \operatorname{var}(\log T)

    The point is ordinary least squares, the interval a percentile bootstrap over examples.

    Args:
        amounts: What each example receives (a loss, a gradient norm), ``(n,)``; those not > 0 have no logarithm and
            are left out, which ``reason`` says.
        lengths: Length of each example, ``(n,)``, > 0 likewise.
        resamples: Bootstrap resamples; 0 gives no interval.
        level: Coverage of the interval.
        seed: Of the resampling; the result is the same at every call.

    Returns:
        The estimate; value None under 3 usable examples or with one distinct length.

    Raises:
        ValueError: If the two are not flat and of one length.
    """
    amounts, lengths = _pair("elasticity", amounts, lengths)
    usable = (amounts > 0) & (lengths > 0) & torch.isfinite(amounts) & torch.isfinite(lengths)
    x, y, n = lengths[usable].log(), amounts[usable].log(), int(usable.sum())
    left_out = usable.numel() - n
    note = f"{left_out} of {usable.numel()} left out: not positive and finite" if left_out else ""
    if n < 3:
        return Estimate(
            None, None, None, n, "; ".join(filter(None, [f"needs at least 3 examples, there are {n}", note]))
        )
    if _is_constant(x):
        return Estimate(None, None, None, n, "; ".join(filter(None, ["all lengths are equal", note])))
    low, high = bootstrap(lambda w: slope(x, y, w).reshape(-1), n, resamples=resamples, level=level, seed=seed)
    return Estimate(float(slope(x, y)), low, high, n, note)


def bootstrap(
    statistic: Callable[[Tensor], Tensor],
    n: int,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    clusters: Tensor | None = None,
) -> tuple[float | None, float | None]:
    """Percentile interval of a statistic, by resampling observations (or whole clusters of them) with replacement.

    Args:
        statistic: From weights ``(some resamples, n)``, float64 (how often each observation was drawn), to one value
            a resample; so a weighted mean is a matrix product. NaN where a resample has none: those are left out.
        n: Number of observations.
        resamples: Number of resamples; 0 gives no interval.
        level: Coverage, strictly between 0 and 1.
        seed: Of a generator of its own: the global random state is neither read nor moved.
        clusters: Cluster of each observation, ``(n,)``, 0, 1, ...; observations sharing a prompt are drawn together.

    Returns:
        The two ends, or (None, None) where fewer than half of the resamples have a value.
    """
    generator = torch.Generator().manual_seed(seed)
    units = n if clusters is None else int(clusters.max()) + 1
    values, done, step = [], 0, max(1, _CHUNK // max(1, n))
    while done < resamples:
        size = min(step, resamples - done)
        drawn = torch.randint(units, (size, units), generator=generator)
        weights = torch.zeros(size, units, dtype=torch.float64)
        weights.scatter_add_(1, drawn, torch.ones(1, 1, dtype=torch.float64).expand(size, units))
        values.append(statistic(weights if clusters is None else weights[:, clusters]))
        done += size
    found = torch.cat(values) if values else torch.zeros(0)
    found = found[torch.isfinite(found)]
    if found.numel() * 2 < resamples or not found.numel():
        return None, None
    ends = torch.quantile(found.double(), torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64))
    return float(ends[0]), float(ends[1])


def _pair(name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.dim() != 1 or x.shape != y.shape:
        raise ValueError(f"{name}: expected two flat tensors of one length, got {tuple(x.shape)} and {tuple(y.shape)}.")
    return x.detach().cpu().double(), y.detach().cpu().double()


def _is_constant(x: Tensor) -> bool:
    """Constant up to rounding: log-lengths of equal lengths are equal, means of equal losses may differ in a bit."""
    return bool(x.max() - x.min() <= 1e-12 * x.abs().max())
