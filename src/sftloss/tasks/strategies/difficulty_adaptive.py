from __future__ import annotations

from torch import Tensor

from sftloss.tasks.strategies.reference import reference
from sftloss.tasks.strategies.strategy import (
    SMALLEST,
    Observation,
    Rule,
    State,
    Strategy,
    check_decay,
    check_positive,
    ema,
    strategy,
    zeros,
)


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

    Raises:
        ValueError: If a number is out of range.

    Gradient:
        :math:`\partial L / \partial L_k = w_k`. The losses in the weights are detached; the tutorial's are not, and
        its total then *ascends* some tasks.

    Source:
        The tutorial, section 3.4. There :math:`\exp(L / \tau)` in the text, a softmax of sum 1 in the code.
    """
    check_positive("difficulty_adaptive", temperature=temperature)
    check_decay("difficulty_adaptive", decay)
    check_positive("difficulty_adaptive", reference_steps=reference_steps)

    def observe(state: State, observation: Observation) -> State:
        return {
            "loss": ema(state["loss"], observation.losses, state["seen"], decay),
            "first": reference(state["first"], observation.losses, state["seen"], reference_steps),
        }

    def log_weights(state: State) -> Tensor:
        level = state["loss"] / state["first"].clamp(min=SMALLEST) if relative else state["loss"]
        return level / temperature

    return strategy("difficulty_adaptive", Rule(lambda k: {"loss": zeros(k), "first": zeros(k)}, observe, log_weights))
