from __future__ import annotations

from sftloss.tasks.gramian.solve import Gramian, Weights, balance, checked


def nash_mtl(gramian: Gramian) -> Weights:
    r"""The bargaining solution: weights w > 0 with :math:`G w = 1 / w`, element by element.

    Every task then gains the same relative utility. Solved exactly by Newton's method, where the authors linearise.

    Args:
        gramian: :math:`G_{ij} = \langle g_i, g_j \rangle`, ``(tasks, tasks)``.

    Returns:
        Weights ``(tasks,)``, float64, > 0. Of this step.

    Raises:
        ValueError: If the Gramian is not square or not finite.

    Gradient:
        :math:`\langle g_k, d \rangle = 1 / w_k > 0`: every task's loss falls to first order, whatever its scale.

    Source:
        Navon et al., *Multi-Task Learning as a Bargaining Game*, 2022, claim 3.1 (arXiv:2202.01017).
    """
    return balance(checked("nash_mtl", gramian), 1.0)


def fairgrad(gramian: Gramian, *, alpha: float = 1.0) -> Weights:
    r"""Alpha-fair gains: weights w > 0 with :math:`G w = w^{-1/\alpha}`. ``alpha = 1`` is :func:`nash_mtl`.

    Args:
        gramian: :math:`G_{ij} = \langle g_i, g_j \rangle`, ``(tasks, tasks)``.
        alpha: Kind of fairness, ``> 0``: towards 0 the sum of gains counts, large alpha the smallest gain.

    Returns:
        Weights ``(tasks,)``, float64, > 0. Of this step.

    Raises:
        ValueError: If the Gramian is not square or not finite, or alpha not positive.

    Gradient:
        :math:`\langle g_k, d \rangle = w_k^{-1/\alpha} > 0`: every task's loss falls to first order.

    Source:
        Ban and Ji, *Fair Resource Allocation in Multi-Task Learning*, 2024, eq. 4 (arXiv:2402.15638).
    """
    if not 0 < alpha < float("inf"):
        raise ValueError(f"fairgrad: alpha must be finite and > 0, got {alpha}.")
    return balance(checked("fairgrad", gramian), alpha)
