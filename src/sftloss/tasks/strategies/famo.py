from __future__ import annotations

import torch
from torch import Tensor

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import log, zeros
from sftloss.tasks.strategies.strategy import Observation, State, Strategy, recorded

_BETAS, _EPS = (0.9, 0.999), 1e-8  # Adam's own, as in the authors' code


@recorded(unit="inverse")
def famo(*, lr: float = 0.025, gamma: float = 0.01) -> Strategy:
    r"""Every task's log loss should fall equally fast; the slowest decides.

    .. math:: w_k \propto \frac{z_k}{L_k}, \quad z = \operatorname{softmax}(\xi), \qquad
              \xi \leftarrow \operatorname{Adam}\bigl(\xi,\; J_z^\top [\log L(\theta_t) - \log L(\theta_{t+1})]
              + \gamma \xi\bigr)

    The two losses are of the same tokens, before and after the optimizer step: one forward pass more, without gradient.
    Turn dropout off in both, or the difference is its noise.

    Args:
        lr: Step size of Adam on the logits :math:`\xi`, ``> 0``.
        gamma: Decay of the logits, ``>= 0``: without it weights drift apart for ever.

    Returns:
        The strategy; it needs the losses after the step. z is of this step, as in the paper; the loss that divides it
        lags: it is the last one seen, where the paper's is this step's. The softmax and its Jacobian are over the tasks
        present, so a task that is absent neither moves nor is counted. A loss under 1e-8, or negative, counts as 1e-8.

    Gradient:
        :math:`\partial L / \partial L_k = w_k`; the paper's factor :math:`c = 1 / \sum z_k / L_k` is replaced by the
        mean weight of 1.

    Source:
        Liu et al., *FAMO: Fast Adaptive Multitask Optimization*, 2023, algorithm 1 (arXiv:2306.03792), with the Adam of
        the authors' code and their minimum losses b set to 0.
    """
    check_range("famo", lr=(lr, "> 0"), gamma=(gamma, ">= 0"))

    def observe(state: State, observation: Observation) -> State:
        assert observation.extra is not None  # `update` has checked it
        xi, present = state["xi"], observation.present
        fallen = log(observation.losses) - log(observation.extra)
        # without any task present: a softmax over -inf alone is NaN, which the freeze discards
        z = torch.softmax(torch.where(present, xi, -torch.inf), 0)
        slope = z * (fallen - torch.where(present, z * fallen, 0).sum()) + gamma * xi
        first = _BETAS[0] * state["first_moment"] + (1 - _BETAS[0]) * slope
        second = _BETAS[1] * state["second_moment"] + (1 - _BETAS[1]) * slope * slope
        count = (state["seen"] + 1).double()
        step = first / (1 - _BETAS[0] ** count) / ((second / (1 - _BETAS[1] ** count)).sqrt() + _EPS)
        return {"xi": xi - lr * step, "first_moment": first, "second_moment": second, "loss": observation.losses}

    def log_weights(state: State) -> Tensor:
        return state["xi"] - log(state["loss"])

    fields = zeros("xi", "first_moment", "second_moment", "loss")
    return Strategy("famo", fields, observe, log_weights, needs="after")
