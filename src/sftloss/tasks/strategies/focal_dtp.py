from __future__ import annotations

import torch
from torch import Tensor

from sftloss.tasks.strategies.strategy import Observation, Rule, State, Strategy, check_decay, ema, strategy, zeros

_EDGE = 1e-6


def focal_dtp(*, gamma: float = 1.0, decay: float = 0.9) -> Strategy:
    r"""Dynamic task prioritisation: the focal loss one level up, tasks that are mastered fade.

    .. math:: w_k \propto -(1 - \kappa_k)^\gamma \log \kappa_k, \qquad \kappa_k = \overline{e^{-L_k}}

    :math:`\kappa` in (0, 1) says how well the task is done: the exponential mean of the geometric mean probability of
    its tokens.

    Args:
        gamma: Focusing exponent, dimensionless, ``>= 0``.
        decay: Of the exponential mean of the indicator.

    Returns:
        The strategy. Lagged. The worse a task is done the more weight it has.

    Raises:
        ValueError: If a number is out of range.

    Gradient:
        :math:`\partial L / \partial L_k = w_k`.

    Source:
        Guo et al., *Dynamic Task Prioritization for Multitask Learning*, ECCV 2018, eq. 3 and 5; there the indicator is
        any measure such as accuracy.
    """
    if not 0 <= gamma < float("inf"):
        raise ValueError(f"focal_dtp: gamma must be finite and >= 0, got {gamma}.")
    check_decay("focal_dtp", decay)

    def observe(state: State, observation: Observation) -> State:
        return {"kpi": ema(state["kpi"], torch.exp(-observation.losses), state["seen"], decay)}

    def log_weights(state: State) -> Tensor:
        kpi = state["kpi"].clamp(_EDGE, 1 - _EDGE)
        return gamma * torch.log1p(-kpi) + torch.log(-torch.log(kpi))

    return strategy("focal_dtp", Rule(lambda k: {"kpi": zeros(k)}, observe, log_weights))
