from __future__ import annotations

from torch import Tensor

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import change, neutral_where_unknown, observe_slope, slope_fields
from sftloss.tasks.strategies.strategy import State, Strategy, recorded


@recorded(settings=({"window": 3},), unit="free")
def learning_progress(
    *, temperature: float = 1.0, window: int = 20, decay: float = 0.9, limit: float = 1.0
) -> Strategy:
    r"""More weight to tasks that are being learned, in either direction: the opposite of ``performance_based``.

    .. math:: w = K \operatorname{softmax}(\min(|\Delta|, c) / T)

    A task that stands still, mastered or hopeless, gets less; one that is forgotten counts as moving.

    Args:
        temperature: T, dimensionless, ``> 0``.
        window: In steps in which the task was present, ``>= 2``. Before its window is full a task has the geometric
            mean of the others' weights.
        decay: Of the exponential mean of the loss.
        limit: c, ``> 0``: no weight exceeds another by more than :math:`e^{c/T}`.

    Returns:
        The strategy. Lagged. Scale-free; a *faster* task never has less weight.

    Source:
        Graves et al., *Automated Curriculum Learning for Neural Networks*, 2017, section 3 (arXiv:1704.03003), and
        Matiisen et al., *Teacher-Student Curriculum Learning*, 2017 (arXiv:1707.00183); there as sampling.
    """
    check_range("learning_progress", temperature=(temperature, "> 0"), window=(window, ">= 2"))
    check_range("learning_progress", decay=(decay, "in [0, 1)"), limit=(limit, "> 0"))

    def log_weights(state: State) -> Tensor:
        delta, known = change(state)
        return neutral_where_unknown(delta.abs().clamp(max=limit) / temperature, known)

    return Strategy("learning_progress", slope_fields(window), observe_slope(decay), log_weights)
