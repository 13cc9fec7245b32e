from __future__ import annotations

import torch
from torch import Tensor

from sftloss.errors import check_range
from sftloss.tasks.gramian import UNRESOLVED, Gramian, Weights, complementary, scaled, unsolved
from sftloss.tasks.strategies.of_gramian import GramianMethod


@GramianMethod
def cagrad(gramian: Gramian, *, c: float = 0.4) -> Weights:
    r"""The direction near the mean gradient that helps the worst-served task most.

    .. math:: \max_d \min_k \langle g_k, d \rangle, \quad \lVert d - g_0 \rVert \le c \lVert g_0 \rVert, \qquad
              g_0 = \tfrac1K \sum_k g_k

    Args:
        c: Radius, ``0 <= c < 1`` for convergence to a minimum of the mean loss; 0 is the mean gradient.

    Returns:
        Weights ``>= 1/K``, not rescaled by :math:`1 / (1 + c^2)`. They are those of the mean gradient near a stationary
        point, where gradients cancel to 1e-6 of their lengths and the Gramian does not resolve their combination.

    Gradient:
        The mean loss falls to first order for c < 1.

    Source:
        Liu et al., *Conflict-Averse Gradient Descent*, 2021, eq. 4 and algorithm 1 (arXiv:2110.14048).
    """
    check_range("cagrad", c=(c, ">= 0"))
    cosines, norms = scaled("cagrad", gramian)
    mean = torch.full_like(norms, 1 / len(norms))
    terms = mean * norms
    length = float((terms @ cosines @ terms).clamp(min=0).sqrt())
    if c == 0 or bool((norms == 0).any()) or length < UNRESOLVED * float(terms.sum()):
        return mean
    y = _to_the_edge(cosines, cosines @ terms, 1 / norms, length, c * length)
    return mean + y / norms if c * length > UNRESOLVED * float(y.sum()) else mean


def _to_the_edge(cosines: Tensor, gains: Tensor, inverse: Tensor, length: float, radius: float) -> Tensor:
    r"""Return the y >= 0 whose :math:`\sum y_k g_k / n_k`, added to the mean, helps the worst task most.

    For a level that every task's gain must reach, the shortest such addition is a complementarity problem. Its length
    is convex in the level, with the slope :math:`\sum y_k / n_k` over the length; Newton's method within a bracket
    finds the level at which the length is the radius. Above 0 a level may be out of reach: y then grows without bound.

    Args:
        cosines: ``(tasks, tasks)``.
        gains: Of the mean gradient along each gradient's direction, ``(tasks,)``.
        inverse: One over each norm, ``(tasks,)``.
        length: Of the mean gradient.
        radius: Of the ball.
    """
    low, high = float((gains / inverse).min()), float(((length + radius) / inverse).min())
    level = min(max(low, 0.0), high)
    for _ in range(100):
        y = complementary("cagrad", cosines, (gains - level * inverse)[None])[0]
        size, total = float((y @ cosines @ y).clamp(min=0).sqrt()), float(y.sum())
        is_resolved = UNRESOLVED * total < radius
        if (is_resolved and abs(size - radius) <= 1e-12 * max(radius, total)) or high - low <= 1e-14 * abs(high):
            return y
        low, high = (level, high) if is_resolved and size < radius else (low, level)
        newton = level - (size - radius) * size / float(y @ inverse) if is_resolved and total else low
        level = newton if low < newton < high else (low + high) / 2
    unsolved("cagrad")
    return y
