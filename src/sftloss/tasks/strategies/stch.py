from __future__ import annotations

from torch import Tensor

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import log, smoothed_loss, zeros
from sftloss.tasks.strategies.strategy import State, Strategy, recorded


@recorded(settings=({}, {"mu": 0.2, "reference_steps": 2}), unit="inverse")
def stch(*, mu: float = 1.0, decay: float = 0.0, reference_steps: int = 10) -> Strategy:
    r"""Smooth Tchebycheff: descends a smooth maximum of the log losses, each measured by where it began.

    .. math::
        \mu \log \sum_k e^{f_k / \mu}, \quad f_k = \log(L_k / L_k^{(0)}), \qquad
        w_k \propto \operatorname{softmax}(f / \mu)_k / L_k

    Small :math:`\mu` follows the task that lags most; ``mu = 1`` weights by :math:`1 / L_k^{(0)}`, fixed.

    Args:
        mu: :math:`\mu`, dimensionless, ``> 0``.
        decay: Of the exponential mean of the loss; 0 is the last step's loss.
        reference_steps: Number of observations whose mean is :math:`L^{(0)}`, the nadir; the authors' code takes four
            epochs.

    Returns:
        The strategy. Lagged by one step; in the paper of this step.

    Source:
        Lin et al., *Smooth Tchebycheff Scalarization for Multi-Objective Optimization*, 2024, eq. 11
        (arXiv:2402.19078), on log losses as in the authors' code.
    """
    check_range("stch", mu=(mu, "> 0"), decay=(decay, "in [0, 1)"), reference_steps=(reference_steps, "> 0"))

    def log_weights(state: State) -> Tensor:
        return (log(state["loss"]) - log(state["first"])) / mu - log(state["loss"])

    return Strategy("stch", zeros("loss", "first"), smoothed_loss(decay, reference_steps), log_weights)
