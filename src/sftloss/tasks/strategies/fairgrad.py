from __future__ import annotations

from functools import partial

from sftloss.registry import attach_record
from sftloss.tasks.gramian import Gramian, Weights, balance, scaled
from sftloss.tasks.strategies.formula import check
from sftloss.tasks.strategies.of_gramian import of_gramian
from sftloss.tasks.strategies.strategy import Strategy, StrategyRecord


@attach_record(StrategyRecord())
def fairgrad(*, alpha: float = 1.0, smoothing: float = 1e-3) -> Strategy:
    r"""Alpha-fair gains: weights w > 0 with :math:`G w = w^{-1/\alpha}`. ``alpha = 1`` is ``nash_mtl``.

    Args:
        alpha: Kind of fairness, ``> 0``: towards 0 the sum of gains counts, for large alpha the smallest gain.
        smoothing: Of lagged weights, as in :func:`of_gramian`.

    Returns:
        The strategy, which needs the Gramian.

    Raises:
        ValueError: If alpha is not positive.

    Gradient:
        :math:`\langle g_k, d \rangle = w_k^{-1/\alpha} > 0`: every task's loss falls to first order.

    Source:
        Ban and Ji, *Fair Resource Allocation in Multi-Task Learning*, 2024, eq. 4 (arXiv:2402.15638).
    """
    check("fairgrad", alpha=(alpha, "> 0"))
    return of_gramian(partial(fairgrad_weights, alpha=alpha), name="fairgrad", smoothing=smoothing)


def fairgrad_weights(gramian: Gramian, *, alpha: float = 1.0) -> Weights:
    """Weights of :func:`fairgrad` for this step, ``> 0``."""
    check("fairgrad", alpha=(alpha, "> 0"))
    return balance("fairgrad", scaled("fairgrad", gramian), alpha)
