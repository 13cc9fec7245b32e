from __future__ import annotations

from torch import Tensor

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import SMALLEST, smoothed_loss, zeros
from sftloss.tasks.strategies.strategy import State, Strategy, recorded


@recorded()
def uw_so(*, temperature: float = 1.0, decay: float = 0.0) -> Strategy:
    r"""Softmax of inverse losses, :math:`w = K \operatorname{softmax}(1 / (T L))`: uncertainty's optimum, tempered.

    Args:
        temperature: T, in 1/nats, ``> 0``; it has to be tuned, since the formula is not scale-free.
        decay: Of the exponential mean of the loss; 0 is the last step's loss, as in the paper.

    Returns:
        The strategy. Lagged by one step; in the paper of this step. The losses in the weights are detached, as there.

    Source:
        Kirchdorfer et al., *Analytical Uncertainty-Based Loss Weighting in Multi-Task Learning*, 2024
        (arXiv:2408.07985).
    """
    check_range("uw_so", temperature=(temperature, "> 0"), decay=(decay, "in [0, 1)"))

    def log_weights(state: State) -> Tensor:
        return 1 / (temperature * state["loss"].clamp(min=SMALLEST))

    return Strategy("uw_so", zeros("loss"), smoothed_loss(decay), log_weights)
