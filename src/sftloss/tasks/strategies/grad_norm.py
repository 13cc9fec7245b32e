from __future__ import annotations

from torch import Tensor

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import log, log_norm, smoothed_loss, zeros
from sftloss.tasks.strategies.strategy import Observation, State, Strategy, recorded


@recorded(unit="inverse")
def grad_norm(*, alpha: float = 1.5, decay: float = 0.9, reference_steps: int = 10) -> Strategy:
    r"""Gradient norms in proportion to how far each task lags: :math:`w_k \propto r_k^\alpha / \lVert g_k \rVert`.

    .. math:: \min_w \sum_k \bigl| w_k \lVert g_k \rVert - \bar G r_k^\alpha \bigr|, \qquad
              r_k \propto \bar L_k / L_k^{(0)}

    Weights at which the norms have the proportions that the paper asks for, in closed form. The paper takes small
    steps on these terms, with :math:`\bar G` held fixed, and rescales the weights; here the means of losses and norms
    are smoothed instead. For `alpha` 0 or 1 all terms are zero at these weights, so they are the fixed point of the
    paper's steps. For other `alpha` the mean of :math:`r_k^\alpha` is not 1 and no weights make all terms zero: the
    paper's steps then end near these weights (2 to 5 tasks, losses within a factor of 2, `alpha` 1.5: within 10 %).

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
