from __future__ import annotations

import torch
from torch import Tensor

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import exponential_mean, zeros
from sftloss.tasks.strategies.strategy import Observation, State, Strategy, recorded

_EDGE = 1e-6


@recorded()
def focal_dtp(*, gamma: float = 1.0, decay: float = 0.9) -> Strategy:
    r"""Dynamic task prioritization, the focal loss one level up: tasks that are mastered fade.

    .. math:: w_k \propto -(1 - \kappa_k)^\gamma \log \kappa_k, \qquad \kappa_k = \overline{e^{-L_k}}

    :math:`\kappa` in (0, 1) measures how well the task is done: the exponential mean of the geometric mean probability
    of its tokens.

    Args:
        gamma: Focusing exponent, dimensionless, ``>= 0``.
        decay: Of the exponential mean of the indicator.

    Returns:
        The strategy. Lagged. The worse a task is done the more weight it has.

    Source:
        Guo et al., *Dynamic Task Prioritization for Multitask Learning*, ECCV 2018, eq. 3 and 5; there the indicator is
        any measure such as accuracy.
    """
    check_range("focal_dtp", gamma=(gamma, ">= 0"), decay=(decay, "in [0, 1)"))

    def observe(state: State, observation: Observation) -> State:
        return {"kpi": exponential_mean(state["kpi"], torch.exp(-observation.losses), state["seen"], decay)}

    def log_weights(state: State) -> Tensor:
        kpi = state["kpi"].clamp(_EDGE, 1 - _EDGE)
        return gamma * torch.log1p(-kpi) + torch.log(-torch.log(kpi))

    return Strategy("focal_dtp", zeros("kpi"), observe, log_weights)
