from __future__ import annotations

from sftloss.tasks.gramian import Gramian, Weights, balance, scaled
from sftloss.tasks.strategies.of_gramian import GramianMethod


@GramianMethod
def nash_mtl(gramian: Gramian) -> Weights:
    r"""The bargaining solution: weights w > 0 with :math:`G w = 1 / w`, element by element.

    Every task then gains the same relative utility. Solved exactly by Newton's method, where the authors linearize.

    Returns:
        Weights ``> 0``.

    Gradient:
        :math:`\langle g_k, d \rangle = 1 / w_k > 0`: every task's loss falls to first order, whatever its scale.

    Source:
        Navon et al., *Multi-Task Learning as a Bargaining Game*, 2022, claim 3.1 (arXiv:2202.01017).
    """
    return balance("nash_mtl", scaled("nash_mtl", gramian), 1.0)
