from __future__ import annotations

from sftloss.tasks.gramian.solve import Gramian, Weights, checked, quadratic


def mgda(gramian: Gramian) -> Weights:
    r"""The shortest convex combination of the gradients: :math:`\min_{w \in \Delta} \lVert \sum_k w_k g_k \rVert^2`.

    Solved exactly. It favours tasks with small gradients, and is 0 only where no direction helps all tasks.

    Args:
        gramian: :math:`G_{ij} = \langle g_i, g_j \rangle`, ``(tasks, tasks)``.

    Returns:
        Weights ``(tasks,)``, float64, ``>= 0``, of sum 1. Of this step.

    Raises:
        ValueError: If the Gramian is not square or not finite.

    Gradient:
        No task's loss rises to first order along :math:`-\sum_k w_k g_k`.

    Source:
        Désidéri, 2012; Sener and Koltun, *Multi-Task Learning as Multi-Objective Optimization*, 2018, eq. 3
        (arXiv:1810.04650).
    """
    g = checked("mgda", gramian)
    return quadratic(g, g.new_zeros(g.shape[0]), simplex=True)
