from __future__ import annotations

import torch
from torch import Tensor

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import SMALLEST, zeros
from sftloss.tasks.strategies.strategy import Observation, State, Strategy, recorded


@recorded(settings=({"window": 2},), unit="free")
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

    Source:
        Liu, Johns and Davison, *End-to-End Multi-Task Learning with Attention*, 2019, eq. 7 (arXiv:1803.10704).
    """
    check_range("dwa", temperature=(temperature, "> 0"), window=(window, ">= 1"))

    def observe(state: State, observation: Observation) -> State:
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

    return Strategy("dwa", zeros("total", "last", "before"), observe, log_weights)
