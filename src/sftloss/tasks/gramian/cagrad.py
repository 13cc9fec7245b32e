from __future__ import annotations

import torch
from torch import Tensor

from sftloss.tasks.gramian.solve import Gramian, Weights, checked, quadratic


def cagrad(gramian: Gramian, *, c: float = 0.4) -> Weights:
    r"""The direction near the mean gradient that helps the worst-served task most.

    .. math:: \max_d \min_k \langle g_k, d \rangle, \quad \lVert d - g_0 \rVert \le c \lVert g_0 \rVert, \qquad
              g_0 = \tfrac1K \sum_k g_k

    Its dual is :math:`\min_{w \in \Delta} \langle g_w, g_0 \rangle + c \lVert g_0 \rVert \lVert g_w \rVert`, and
    :math:`d = g_0 + c \lVert g_0 \rVert g_w / \lVert g_w \rVert`.

    Args:
        gramian: :math:`G_{ij} = \langle g_i, g_j \rangle`, ``(tasks, tasks)``.
        c: Radius, ``0 <= c < 1`` for convergence to a minimum of the mean loss; 0 is the mean gradient.

    Returns:
        Weights ``(tasks,)``, float64, ``>= 1/K``. Of this step. Not rescaled by :math:`1 / (1 + c^2)`.

    Raises:
        ValueError: If the Gramian is not square or not finite, or c is negative.

    Gradient:
        The mean loss falls to first order for c < 1.

    Source:
        Liu et al., *Conflict-Averse Gradient Descent*, 2021, eq. 4 and algorithm 1 (arXiv:2110.14048).
    """
    if not 0 <= c < float("inf"):
        raise ValueError(f"cagrad: c must be finite and >= 0, got {c}.")
    g = checked("cagrad", gramian)
    count = g.shape[0]
    mean = torch.full((count,), 1 / count, dtype=g.dtype)
    radius = c * float((mean @ g @ mean).clamp(min=0).sqrt())
    if radius == 0:
        return mean
    length, w = _dual(g, g @ mean, radius, radius / c)
    if length < 1e-9 * radius / c:
        return mean  # the gradients cancel: no direction helps all
    return mean + radius / length * w


def _dual(g: Tensor, b: Tensor, radius: float, size: float) -> tuple[float, Tensor]:
    r"""The w of the simplex with the smallest :math:`b^\top w + s \lVert g_w \rVert`, and :math:`\lVert g_w \rVert`.

    :math:`s \lVert g_w \rVert` is the minimum over t > 0 of :math:`s (w^\top G w / t + t) / 2`, jointly convex; so the
    sign of :math:`\lVert g_{w(t)} \rVert - t` says on which side of t the optimum lies, where they are equal.
    """

    def at(t: float) -> tuple[float, Tensor]:
        w = quadratic(radius / t * g, b, simplex=True)
        return float((w @ g @ w).clamp(min=0).sqrt()), w

    low, high = 1e-10 * size, float(g.diagonal().max().sqrt())
    t = size
    for _ in range(100):
        length, w = at(t)
        if abs(length - t) <= 1e-12 * t:
            break
        low, high = (t, high) if length > t else (low, t)
        # the fixed point is quick far from cancelling gradients, halving never slow
        t = length if low < length < high and abs(length - t) < 0.1 * t else (low * high) ** 0.5
        if high <= low * (1 + 1e-14):
            break
    return length, w
