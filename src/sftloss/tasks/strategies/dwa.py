from __future__ import annotations

import torch
from torch import Tensor

from sftloss.tasks.strategies.strategy import (
    SMALLEST,
    Observation,
    Rule,
    State,
    Strategy,
    check_positive,
    strategy,
    zeros,
)


def dwa(*, temperature: float = 2.0, window: int = 25) -> Strategy:
    r"""Dynamic weight average: more weight to tasks whose loss falls more slowly.

    .. math:: w = K \operatorname{softmax}(r / T), \qquad r_k = \bar L_k^{(-1)} / \bar L_k^{(-2)}

    :math:`\bar L^{(-1)}` is the mean over the last complete window of a task's observations, :math:`\bar L^{(-2)}` over
    the one before. The paper's windows are epochs, which do nothing in a fine-tuning of one or two.

    Args:
        temperature: T, dimensionless, ``> 0``.
        window: Length of a window in steps in which the task was present, ``>= 1``.

    Returns:
        The strategy. Lagged. Scale-free; a slower task never has less weight; r is 1 before two windows are complete,
        and at most 2, so that a diverging task cannot take all.

    Raises:
        ValueError: If a number is out of range.

    Gradient:
        :math:`\partial L / \partial L_k = w_k`.

    Source:
        Liu, Johns and Davison, *End-to-End Multi-Task Learning with Attention*, 2019, eq. 7 (arXiv:1803.10704).
    """
    check_positive("dwa", temperature=temperature)
    if window < 1:
        raise ValueError(f"dwa: window must be >= 1, got {window}.")

    def observe(state: State, observation: Observation) -> dict[str, Tensor]:
        total = state["total"] + observation.losses
        is_complete = (state["seen"] + 1) % window == 0
        return {
            "total": torch.where(is_complete, 0, total),
            "last": torch.where(is_complete, total / window, state["last"]),
            "before": torch.where(is_complete, state["last"], state["before"]),
        }

    def log_weights(state: State) -> Tensor:
        ratio = state["last"].clamp(min=SMALLEST) / state["before"].clamp(min=SMALLEST)
        return torch.where(state["seen"] >= 2 * window, ratio.clamp(max=2.0), 1.0) / temperature

    rule = Rule(lambda k: {"total": zeros(k), "last": zeros(k), "before": zeros(k)}, observe, log_weights)
    return strategy("dwa", rule)
