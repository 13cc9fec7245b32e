"""What the Gramian methods share: the Gramian on the present tasks, its scaling, and two small convex solvers.

Everything runs on the host in float64, on the matrix of cosines and the norms beside it, so that norms of any ratio are
solved alike. The solvers are ours because they are more exact than those of TorchJD 0.18 and as fast. Measured with 2,
4, 8 and 20 tasks, on random gradients, norms of ratio 1e4 to 1e12, duplicates, and gradients that cancel or nearly do:

* UPGrad: no conflict here. TorchJD (quadprog, with its ridge of 1e-4) conflicts from a norm ratio of 1e4 on (cosines
  down to -0.5) and where gradients nearly cancel (-1); with a ridge of 1e-10 still at a norm ratio of 1e8 (-0.5).
* MGDA: optimal here, but for rounding. TorchJD (Frank-Wolfe) stops 0.5 % above the smallest squared norm on random
  gradients and far from the optimum at a norm ratio of 1e4.
* FairGrad: solved here. TorchJD (least squares of scipy) does not converge at a norm ratio of 1e8.
* IMTL-G: the same on random gradients; TorchJD's projections differ by 100 % at a norm ratio of 1e8.
* Time for 4 and 20 tasks, in one run on a busy core: UPGrad 0.6 and 2.2 ms (TorchJD 0.7 and 3.3), MGDA 0.4 and 0.7 ms
  (3.0 and 13), FairGrad 2.2 and 3.8 ms (6.1 and 13), IMTL-G 0.2 and 0.3 ms (0.1 and 0.2).

TorchJD's CAGrad and Nash-MTL need cvxpy and were not measured.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Gramian = Float[Tensor, "tasks tasks"]
Weights = Float[Tensor, " tasks"]

_NEGLIGIBLE = 1e-12
UNRESOLVED = 1e-6
"""Gradients that cancel to this share of their lengths or less have no direction: float64 Gramians hold squares."""


class Scaled(NamedTuple):
    """A Gramian as its cosines and norms, :math:`G_{ij} = n_i n_j C_{ij}`.

    Attributes:
        cosines: ``(tasks, tasks)``, 1 on the diagonal; rows of gradients of zero are 0. Of a Gramian below float64
            the diagonal is larger by its rounding.
        norms: ``(tasks,)``.
    """

    cosines: Tensor
    norms: Tensor


def scaled(name: str, gramian: Gramian) -> Scaled:
    """Check a Gramian and split it."""
    g = checked(name, gramian)
    norms = g.diagonal().clamp(min=0).sqrt()
    lengths = torch.where(norms > 0, norms, 1)
    # a rounded Gramian may have negative eigenvalues of the size of its rounding
    rounding = 0.0 if gramian.dtype == torch.float64 else len(g) * torch.finfo(gramian.dtype).eps
    return Scaled(g / lengths[:, None] / lengths + rounding * torch.eye(len(g), dtype=g.dtype), norms)


def checked(name: str, gramian: Gramian) -> Gramian:
    """Return the Gramian in float64 on the host."""
    if gramian.dim() != 2 or gramian.shape[0] != gramian.shape[1] or not gramian.numel():
        raise ValueError(f"{name}: a Gramian is square, (tasks, tasks), got shape {tuple(gramian.shape)}.")
    exact = gramian.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(exact).all()):
        raise ValueError(f"{name}: the Gramian holds NaN or infinity; leave that task out of the step.")
    return (exact + exact.T) / 2


def on_present(weighting: Callable[[Tensor], Tensor], gramian: Gramian, present: Bool[Tensor, " tasks"]) -> Weights:
    """Weights of the problem without the absent tasks; 0 for those.

    An absent task's row of zeros must not enter: with it the shortest combination is exactly 0, and nobody learns.

    Args:
        weighting: Gramian to weights: one of ours, or any callable with this signature.
        gramian: ``(tasks, tasks)``; rows and columns of absent tasks may hold anything.
        present: Which tasks the step had, ``(tasks,)``.

    Returns:
        Weights ``(tasks,)``, float64.

    Example:
        >>> from sftloss.tasks.strategies import mgda
        >>> on_present(mgda.weights, torch.diag(torch.tensor([1.0, 0.0, 1.0])), torch.tensor([True, False, True]))
        tensor([0.5000, 0.0000, 0.5000], dtype=torch.float64)
    """
    rows = present.cpu().nonzero()[:, 0]
    weights = torch.zeros(len(gramian), dtype=torch.float64)
    if rows.numel():
        inside = gramian.detach().to("cpu", torch.float64)[rows][:, rows]
        weights[rows] = weighting(inside).detach().to("cpu", torch.float64)
    return weights


def complementary(name: str, q: Tensor, b: Float[Tensor, "problems tasks"]) -> Float[Tensor, "problems tasks"]:
    r"""Minimize :math:`\tfrac12 x^\top Q x + b^\top x` over :math:`x \ge 0`, for each row b.

    Block principal pivoting: solve with a set of free variables, then exchange every variable of the wrong sign. Where
    their number has not fallen for a while, only the last is exchanged, a rule that ends after finitely many steps. A
    ridge of 1e-12, the square of `UNRESOLVED`, makes the solution unique where Q is singular or nearly so.

    Args:
        name: The method, for the warning.
        q: Symmetric, positive semidefinite, of diagonal about 1.
        b: ``(problems, tasks)``.

    Source:
        Portugal, Júdice and Vicente, *A Comparison of Block Pivoting and Interior-Point Algorithms for Linear Least
        Squares Problems with Nonnegative Variables*, Mathematics of Computation 1994.
    """
    problems, count = b.shape
    identity = torch.eye(count, dtype=q.dtype)
    regular, slack = q + UNRESOLVED**2 * identity, _NEGLIGIBLE * b.abs().amax(1, keepdim=True)
    free = b < 0
    fewest, patience = torch.full((problems,), count + 1), torch.full((problems,), 3)
    for _ in range(20 * count + 20):
        # bound variables have a row of the identity: their solution is 0
        system = torch.where(free[:, :, None] & free[:, None, :], regular, identity)
        x: Tensor = torch.linalg.solve(system, torch.where(free, -b, 0))
        wrong = torch.where(free, x < -slack, x @ regular + b < -slack)
        counts = wrong.sum(1)
        if not bool(counts.any()):
            break
        patience = torch.where(counts < fewest, 3, patience - 1)
        fewest = torch.minimum(fewest, counts)
        last = wrong & (wrong.long().cumsum(1) == counts[:, None])
        free = free ^ torch.where((patience >= 0)[:, None], wrong, last)
    else:
        unsolved(name)
    return torch.clamp(x, min=0)


def balance(name: str, gramian: Scaled, alpha: float) -> Tensor:
    r"""Return the positive w with :math:`G w = w^{-1/\alpha}`, the minimum of a strictly convex function.

    Damped Newton on :math:`\tfrac12 w^\top G w - \sum \int w^{-1/\alpha}`, from the solution for orthogonal gradients.
    Where no positive w exists (the tasks' gradients cancel) a ridge of 1e-10 of each squared norm makes one, large and
    nearly stationary.
    """
    cosines, norms = gramian
    # a gradient of zero may have any weight; it gets that of a gradient of norm 1 orthogonal to the others
    is_zero = norms == 0
    norms = torch.where(is_zero, 1, norms)
    # w = s u with u = 1 for orthogonal gradients
    s = norms ** (-2 * alpha / (1 + alpha))
    diagonal = norms ** (2 * (1 - alpha) / (1 + alpha))
    root = diagonal.sqrt()
    c = (cosines + torch.diag(is_zero + torch.full_like(norms, 1e-10))) * torch.outer(root, root)
    power, u = -1 / alpha, torch.ones_like(norms)

    def value(u: Tensor) -> float:
        integral = u.log() if power == -1 else u ** (power + 1) / (power + 1)
        return float(0.5 * u @ c @ u - diagonal @ integral)

    for _ in range(200):
        residual = c @ u - diagonal * u**power
        hessian = c + torch.diag(-power * diagonal * u ** (power - 1))
        scale = hessian.diagonal().rsqrt()
        newton = scale * torch.linalg.solve(hessian * torch.outer(scale, scale), scale * residual)
        step = min(1.0, float(0.9 / (newton / u).max().clamp(min=1e-300)))  # stays positive
        now, slope = value(u), float(residual @ newton)
        while step > 1e-12 and value(u - step * newton) > now - 1e-4 * step * slope + 1e-15 * abs(now):
            step /= 2
        u = u - step * newton
        if float((step * newton / u).abs().max()) < 1e-12:
            break
    else:
        unsolved(name)
    weights: Tensor = u * s
    return weights


def unsolved(name: str) -> None:
    """Warn that a solver has reached its limit of iterations."""
    warnings.warn(
        f"{name}: the weights of this step are not exact, because the solver reached its limit of iterations; the "
        "gradients of the tasks nearly cancel, or their norms differ by more than float64 resolves.",
        RuntimeWarning,
        stacklevel=3,
    )
