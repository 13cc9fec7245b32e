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

    Raises:
        ValueError: If a number is out of range.

    Gradient:
        :math:`\partial L / \partial L_k = w_k`.

    Source:
        Lin et al., *Smooth Tchebycheff Scalarization for Multi-Objective Optimization*, 2024, eq. 11
        (arXiv:2402.19078), on log losses as the authors' code has it.
    """
    check_positive("stch", mu=mu, reference_steps=reference_steps)
    check_decay("stch", decay)

    def observe(state: State, observation: Observation) -> State:
        return {
            "loss": ema(state["loss"], observation.losses, state["seen"], decay),
            "first": reference(state["first"], observation.losses, state["seen"], reference_steps),
        }

    def log_weights(state: State) -> Tensor:
        loss, first = state["loss"].clamp(min=SMALLEST).log(), state["first"].clamp(min=SMALLEST).log()
        return (loss - first) / mu - loss

    return strategy("stch", Rule(lambda k: {"loss": zeros(k), "first": zeros(k)}, observe, log_weights))
