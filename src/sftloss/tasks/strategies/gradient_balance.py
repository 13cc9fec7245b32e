from __future__ import annotations

import torch
from torch import Tensor

from sftloss.tasks.strategies.reference import reference
from sftloss.tasks.strategies.strategy import (
    SMALLEST,
    Observation,
    Rule,
    State,
    Strategy,
    check_decay,
    ema,
    strategy,
    zeros,
)


def gradient_balance(*, decay: float = 0.9) -> Strategy:
    r"""Every task pulls equally hard: :math:`w_k \propto 1 / \lVert g_k \rVert`. ``grad_norm`` with ``alpha = 0``.

    Args:
        decay: Of the exponential mean of :math:`\log \lVert g_k \rVert`.

    Returns:
        The strategy; it needs the Gramian, of which it reads the diagonal. Lagged. A task whose gradient is zero, or
        not finite, counts as absent in the step: it takes no weight by dividing by nothing.

    Raises:
        ValueError: If ``decay`` is out of range.

    Gradient:
        :math:`\partial L / \partial L_k = w_k`; scale-equivariant: a loss in other units has the same influence.

    Source:
        The tutorial, section 3.4; Chen et al., *GradNorm*, 2018, eq. 2 with alpha = 0 (arXiv:1711.02257).
    """
    check_decay("gradient_balance", decay)
    return strategy("gradient_balance", _rule(0.0, decay, 1), needs="gramian")


def grad_norm(*, alpha: float = 1.5, decay: float = 0.9, reference_steps: int = 10) -> Strategy:
    r"""Gradient norms in proportion to how far each task lags: :math:`w_k \propto r_k^\alpha / \lVert g_k \rVert`.

    .. math:: \min_w \sum_k \bigl| w_k \lVert g_k \rVert - \bar G r_k^\alpha \bigr|, \qquad
              r_k \propto \bar L_k / L_k^{(0)}

    The minimum in closed form. The paper takes small steps towards it; here the means are smoothed instead.

    Args:
        alpha: Strength, dimensionless, ``>= 0``; 0 makes all norms equal.
        decay: Of the exponential means of the loss and of :math:`\log \lVert g_k \rVert`.
        reference_steps: Number of observations whose mean is :math:`L^{(0)}`.

    Returns:
        The strategy; it needs the Gramian, of which it reads the diagonal. Lagged. At equal norms a task that has
        fallen less never has less weight.

    Raises:
        ValueError: If a number is out of range.

    Gradient:
        :math:`\partial L / \partial L_k = w_k`.

    Source:
        Chen et al., *GradNorm*, 2018, eq. 1 and 2 (arXiv:1711.02257).
    """
    if not 0 <= alpha < float("inf"):
        raise ValueError(f"grad_norm: alpha must be finite and >= 0, got {alpha}.")
    if reference_steps < 1:
        raise ValueError(f"grad_norm: reference_steps must be >= 1, got {reference_steps}.")
    check_decay("grad_norm", decay)
    return strategy("grad_norm", _rule(alpha, decay, reference_steps), needs="gramian")


def _rule(alpha: float, decay: float, steps: int) -> Rule:
    def observe(state: State, observation: Observation) -> State:
        seen = state["seen"]
        return {
            "log_norm": ema(state["log_norm"], _squares(observation).log() / 2, seen, decay),
            "loss": ema(state["loss"], observation.losses, seen, decay),
            "first": reference(state["first"], observation.losses, seen, steps),
        }

    def log_weights(state: State) -> Tensor:
        lag = state["loss"].clamp(min=SMALLEST).log() - state["first"].clamp(min=SMALLEST).log()
        return alpha * lag - state["log_norm"]

    def observed(observation: Observation) -> Tensor:
        squares = _squares(observation)
        return observation.present & torch.isfinite(squares) & (squares > 0)

    return Rule(lambda k: {"log_norm": zeros(k), "loss": zeros(k), "first": zeros(k)}, observe, log_weights, observed)


def _squares(observation: Observation) -> Tensor:
    assert observation.gramian is not None  # `strategy` has looked
    return observation.gramian.detach().double().diagonal()
