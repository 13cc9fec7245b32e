from __future__ import annotations

import torch

from sftloss.tasks.gramian.solve import Gramian, Weights, checked, quadratic


def upgrad(gramian: Gramian) -> Weights:
    r"""Each gradient projected on the cone of directions that hurt no task; the mean of the projections.

    .. math:: w = \frac1K \sum_k v_k, \qquad v_k = \arg\min_{v \ge e_k} v^\top G v

    Args:
        gramian: :math:`G_{ij} = \langle g_i, g_j \rangle`, ``(tasks, tasks)``.

    Returns:
        Weights ``(tasks,)``, float64, ``>= 1/K``; exactly 1/K where no gradients conflict. Of this step.

    Raises:
        ValueError: If the Gramian is not square or not finite.

    Gradient:
        No task's loss rises to first order, and the step scales with each task's gradient.

    Source:
        Quinton and Rey, *Jacobian Descent for Multi-Objective Optimization*, 2024, section 3 (arXiv:2406.16232).
    """
    g = checked("upgrad", gramian)
    count = g.shape[0]
    size = g.diagonal().mean().clamp(min=1e-300)
    # v = e_k + x, x >= 0
    rows = [quadratic(g / size, g[k] / size, simplex=False) for k in range(count)]
    return (1 + torch.stack(rows).sum(0)) / count
