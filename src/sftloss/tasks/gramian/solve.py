"""The two small convex problems that most Gramian methods are; float64, a handful of tasks, on the host."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Gramian = Float[Tensor, "tasks tasks"]
Weights = Float[Tensor, " tasks"]


def checked(name: str, gramian: Gramian) -> Gramian:
    """The Gramian in float64 on the host.

    Raises:
        ValueError: If it is not square, has no task, or holds NaN or infinity.
    """
    if gramian.dim() != 2 or gramian.shape[0] != gramian.shape[1] or not gramian.numel():
        raise ValueError(f"{name}: a Gramian is square, (tasks, tasks), got shape {tuple(gramian.shape)}.")
    exact = gramian.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(exact).all()):
        raise ValueError(f"{name}: the Gramian holds NaN or infinity; leave that task out of the step.")
    return (exact + exact.T) / 2


def quadratic(q: Tensor, b: Tensor, *, simplex: bool) -> Tensor:
    r"""Minimises :math:`\tfrac12 x^\top Q x + b^\top x` over :math:`x \ge 0`, and :math:`\sum x = 1` if simplex.

    A primal active-set method: solve on the free variables, stop at the first bound, let go of the bound whose
    multiplier is most negative. It ends, because no set of bounds comes back at a lower value. A singular Q is
    solved in the least-squares sense.
    """
    n = q.shape[0]
    x = torch.full((n,), 1 / n, dtype=q.dtype) if simplex else torch.zeros(n, dtype=q.dtype)
    free = torch.full((n,), simplex)
    scale = float(q.abs().max() + b.abs().max()) or 1.0
    for _ in range(50 * n):
        target, level = _on_free(q, b, free, simplex)
        step = target - x
        falling = free & (step < 0) & (target < 0)
        if bool(falling.any()):
            length = torch.where(falling, x / torch.where(falling, -step, 1), torch.inf)
            x = (x + length.min() * step).clamp(min=0)
            free = free.clone()
            free[length.argmin()] = False
            x = torch.where(free, x, 0)
            continue
        x = target
        multiplier = torch.where(free, torch.inf, q @ x + b - level)
        if bool(multiplier.min() >= -1e-13 * scale):
            break
        free = free.clone()
        free[multiplier.argmin()] = True
    return x


def _on_free(q: Tensor, b: Tensor, free: Tensor, simplex: bool) -> tuple[Tensor, Tensor]:
    """The minimum over the free variables alone, and the level their gradient has there (0 without the simplex)."""
    index = free.nonzero()[:, 0]
    k = index.numel()
    x = torch.zeros_like(b)
    if not k:
        return x, torch.zeros((), dtype=b.dtype)
    system, right = q[index][:, index], -b[index]
    if simplex:
        ones = torch.ones(k, 1, dtype=q.dtype) * q.diagonal().mean().clamp(min=1e-300)
        system = torch.cat([torch.cat([system, ones], 1), torch.cat([ones.T, torch.zeros(1, 1, dtype=q.dtype)], 1)])
        right = torch.cat([right, ones[:1, 0]])
    solution = torch.linalg.lstsq(system, right[:, None], driver="gelsd").solution[:, 0]
    x[index] = solution[:k]
    level = -solution[k] * ones[0, 0] if simplex else torch.zeros((), dtype=b.dtype)
    return x, level


def balance(gramian: Tensor, alpha: float) -> Tensor:
    r"""The positive w with :math:`G w = w^{-1/\alpha}`, the minimum of a strictly convex function, by damped Newton.

    The function is :math:`\tfrac12 w^\top G w - \sum \int w^{-1/\alpha}`. Where no positive w exists (the tasks'
    gradients cancel) a ridge of 1e-10 of the mean squared norm makes one, large and nearly stationary.
    """
    size = gramian.diagonal().mean()
    if size <= 0:
        return torch.ones(gramian.shape[0], dtype=gramian.dtype)
    g = gramian / size + 1e-10 * torch.eye(gramian.shape[0], dtype=gramian.dtype)
    power, w = -1 / alpha, torch.ones(g.shape[0], dtype=g.dtype)
    for _ in range(200):
        residual = g @ w - w**power
        newton = torch.linalg.solve(g + torch.diag(-power * w ** (power - 1)), residual)
        step = min(1.0, float(0.9 / (newton / w).max().clamp(min=1e-300)))  # stays positive
        while step > 1e-12 and _value(g, w - step * newton, power) > _value(g, w, power) - 1e-4 * step * float(
            residual @ newton
        ) + 1e-15 * abs(_value(g, w, power)):
            step /= 2
        w = w - step * newton
        if float((step * newton / w).abs().max()) < 1e-14:
            break
    # G = size * g, so G w = w^(-1/alpha) asks for w * size^(-1/(1 + 1/alpha))
    return w * size ** (-1 / (1 - power))


def _value(g: Tensor, w: Tensor, power: float) -> float:
    integral = w.log() if power == -1 else w ** (power + 1) / (power + 1)
    return float(0.5 * w @ g @ w - integral.sum())
