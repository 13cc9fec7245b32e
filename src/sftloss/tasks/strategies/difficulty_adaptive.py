from __future__ import annotations

from torch import Tensor

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import SMALLEST, smoothed_loss, zeros
from sftloss.tasks.strategies.strategy import State, Strategy, recorded


@recorded(settings=({}, {"relative": False}), unit="free")
def difficulty_adaptive(
    *, temperature: float = 1.0, relative: bool = True, decay: float = 0.9, reference_steps: int = 10
) -> Strategy:
    r"""More weight to tasks whose loss is still high: :math:`w = K \operatorname{softmax}(d / \tau)`.

    .. math:: d_k = \bar L_k / L_k^{(0)} \;\text{(relative)}, \qquad d_k = \bar L_k \;\text{(not)}

    Args:
        temperature: :math:`\tau`, ``> 0``; in nats if not relative.
        relative: Whether a loss is measured by the mean of the task's first observations, which makes the weights
            free of each loss's scale. Without it a task is difficult because its loss is measured in larger numbers.
        decay: Of the exponential mean of the loss.
        reference_steps: Number of observations behind :math:`L^{(0)}`.

    Returns:
        The strategy. Lagged.

    Gradient:
        :math:`\partial L / \partial L_k = w_k`. The losses in the weights are detached; if they were not, the total
        would *ascend* some tasks.

    Source:
        Common in teaching material, as :math:`\exp(L / \tau)` or as a softmax of sum 1.
    """
    check_range("difficulty_adaptive", temperature=(temperature, "> 0"), decay=(decay, "in [0, 1)"))
    check_range("difficulty_adaptive", reference_steps=(reference_steps, "> 0"))

    def log_weights(state: State) -> Tensor:
        level = state["loss"] / state["first"].clamp(min=SMALLEST) if relative else state["loss"]
        return level / temperature

    fields, observe = zeros("loss", "first"), smoothed_loss(decay, reference_steps)
    return Strategy("difficulty_adaptive", fields, observe, log_weights)
