from __future__ import annotations

from sftloss.registry import attach_record
from sftloss.tasks.gramian import Gramian, Weights, balance, scaled
from sftloss.tasks.strategies.of_gramian import of_gramian
from sftloss.tasks.strategies.strategy import Strategy, StrategyRecord


@attach_record(StrategyRecord())
def nash_mtl(*, smoothing: float = 1e-3) -> Strategy:
    r"""The bargaining solution: weights w > 0 with :math:`G w = 1 / w`, element by element.

    Every task then gains the same relative utility. Solved exactly by Newton's method, where the authors linearize.

    Args:
        smoothing: Of lagged weights, as in :func:`of_gramian`.

    Returns:
        The strategy, which needs the Gramian.

    Gradient:
        :math:`\langle g_k, d \rangle = 1 / w_k > 0`: every task's loss falls to first order, whatever its scale.

    Source:
        Navon et al., *Multi-Task Learning as a Bargaining Game*, 2022, claim 3.1 (arXiv:2202.01017).
    """
    return of_gramian(nash_mtl_weights, name="nash_mtl", smoothing=smoothing)


def nash_mtl_weights(gramian: Gramian) -> Weights:
    """Weights of :func:`nash_mtl` for this step, ``> 0``."""
    return balance("nash_mtl", scaled("nash_mtl", gramian), 1.0)
