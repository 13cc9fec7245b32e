from __future__ import annotations

from sftloss.errors import check_range
from sftloss.tasks.gramian import Gramian, Weights, balance, scaled
from sftloss.tasks.strategies.of_gramian import GramianMethod


@GramianMethod
def fairgrad(gramian: Gramian, *, alpha: float = 1.0) -> Weights:
    r"""Alpha-fair gains: weights w > 0 with :math:`G w = w^{-1/\alpha}`. ``alpha = 1`` is ``nash_mtl``.

    Args:
        alpha: Kind of fairness, ``> 0``: towards 0 the sum of gains counts, for large alpha the smallest gain.

    Returns:
        Weights ``> 0``.

    Gradient:
        :math:`\langle g_k, d \rangle = w_k^{-1/\alpha} > 0`: every task's loss falls to first order.

    Source:
        Ban and Ji, *Fair Resource Allocation in Multi-Task Learning*, 2024, eq. 4 (arXiv:2402.15638).
    """
    check_range("fairgrad", alpha=(alpha, "> 0"))
    return balance("fairgrad", scaled("fairgrad", gramian), alpha)
