from __future__ import annotations

from torch import Tensor

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import change, neutral_where_unknown, observe_slope, slope_fields
from sftloss.tasks.strategies.strategy import State, Strategy, recorded


@recorded(settings=({"window": 3},), unit="free")
def performance_based(
    *, temperature: float = 1.0, window: int = 20, decay: float = 0.9, limit: float = 1.0
) -> Strategy:
    r"""More weight to tasks that learn more slowly, by the relative slope of their loss.

    .. math:: w = K \operatorname{softmax}(\operatorname{clip}(\Delta, -c, 0) / T)

    :math:`\Delta_k` is the change of :math:`\log \bar L_k` across a window, by least squares: -0.1 is a loss that fell
    by a tenth. A rising loss counts as one that stands still, so diverging earns nothing, and no weight exceeds
    another by more than :math:`e^{c/T}`. ``learning_progress`` is this with the sign turned.

    Args:
        temperature: T, dimensionless, ``> 0``.
        window: In steps in which the task was present, ``>= 2``. Before its window is full a task has the geometric
            mean of the others' weights.
        decay: Of the exponential mean of the loss.
        limit: c, ``> 0``.

    Returns:
        The strategy. Lagged. Scale-free; a slower task never has less weight.

    Source:
        A softmax of slopes, as SoftAdapt: Heydari et al., 2019, eq. 9 (arXiv:1912.12355). The form
        :math:`1 / \max(-\text{slope}, 0)` of teaching material would give one stalled task everything.
    """
    check_range("performance_based", temperature=(temperature, "> 0"), window=(window, ">= 2"))
    check_range("performance_based", decay=(decay, "in [0, 1)"), limit=(limit, "> 0"))

    def log_weights(state: State) -> Tensor:
        delta, known = change(state)
        return neutral_where_unknown(delta.clamp(-limit, 0) / temperature, known)

    return Strategy("performance_based", slope_fields(window), observe_slope(decay), log_weights)
