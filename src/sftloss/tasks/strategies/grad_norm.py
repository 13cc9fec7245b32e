from __future__ import annotations

from torch import Tensor

from sftloss.tasks.strategies.pieces import check_range, log, log_norm, smoothed_loss, zeros
from sftloss.tasks.strategies.strategy import Observation, State, Strategy, recorded


@recorded(unit="inverse")
def grad_norm(*, alpha: float = 1.5, decay: float = 0.9, reference_steps: int = 10) -> Strategy:
    r"""Gradient norms in proportion to how far each task lags: :math:`w_k \propto r_k^\alpha / \lVert g_k \rVert`.

    .. math:: \min_w \sum_k \bigl| w_k \lVert g_k \rVert - \bar G r_k^\alpha \bigr|, \qquad
              r_k \propto \bar L_k / L_k^{(0)}

    The minimum in closed form: all terms are zero at these weights, which are the fixed point of the paper's update.
    The paper takes small steps towards it; here the means of losses and norms are smoothed instead, and the weights are
    always at the fixed point of the smoothed values. The two agree where losses and norms change slowly.

    Args:
        alpha: Strength, dimensionless, ``>= 0``; 0 makes all norms equal.
        decay: Of the exponential means of the loss and of :math:`\log \lVert g_k \rVert`.
        reference_steps: Number of observations whose mean is :math:`L^{(0)}`.

    Returns:
        The strategy; it needs the Gramian, of which it reads the diagonal. Lagged. At equal norms a task that has
        fallen less never has less weight. A task whose gradient is zero, or not finite, counts as absent in the step.

    Source:
        Chen et al., *GradNorm*, 2018, eq. 1 and 2 (arXiv:1711.02257).
    """
    check_range("grad_norm", alpha=(alpha, ">= 0"), reference_steps=(reference_steps, ">= 1"))
    check_range("grad_norm", decay=(decay, "in [0, 1)"))
    observe_loss = smoothed_loss(decay, reference_steps)

    def observe(state: State, observation: Observation) -> State:
        return {**observe_loss(state, observation), **log_norm(state, observation, decay)}

    def log_weights(state: State) -> Tensor:
        return alpha * (log(state["loss"]) - log(state["first"])) - state["log_norm"]

    fields = zeros("log_norm", "loss", "first")
    return Strategy("grad_norm", fields, observe, log_weights, needs="gramian")
