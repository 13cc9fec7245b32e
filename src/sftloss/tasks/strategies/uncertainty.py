from __future__ import annotations

import torch
from torch import Tensor

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import SMALLEST, smoothed_loss, zeros
from sftloss.tasks.strategies.strategy import Observation, State, Strategy, recorded

FORMS = ("classification", "regression", "liebel")
_SGD = {"learn": "sgd", "lr": 0.1}


@recorded(
    settings=(
        {},
        _SGD,
        {"kind": "regression", **_SGD},
        {"kind": "liebel"},
        {"kind": "liebel", **_SGD},
    ),
    unit="inverse",
)
def uncertainty(
    *, kind: str = "classification", learn: str = "closed_form", decay: float = 0.9, lr: float = 0.01
) -> Strategy:
    r"""Weights from each task's own noise level, homoscedastic uncertainty: at its optimum :math:`1 / 2 \bar L`.

    With :math:`s = \log \sigma^2`, each task minimizes over s (over c in Liebel's form)

    .. math::
        e^{-s} L + \tfrac12 s \;\text{(classification)}, \qquad \tfrac12 e^{-s} L + \tfrac12 s \;\text{(regression)},
        \qquad \frac{L}{2 c^2} + \log(1 + c^2) \;\text{(Liebel)}

    and weights its loss by :math:`e^{-s}`, :math:`\tfrac12 e^{-s}` or :math:`1 / 2c^2`. It descends the sum of log
    losses. At their optimum the first two weights are both exactly :math:`1 / 2L`; they differ in how fast they get
    there. Liebel's is :math:`2 / (L + \sqrt{L^2 + 8L})`: about as large at L = 1, far smaller at small L.

    Args:
        kind: One of the three forms; cross-entropy is the classification one.
        learn: ``"closed_form"`` puts s at its optimum for the smoothed loss; ``"sgd"`` takes one gradient step on s
            each optimizer step, from the loss over all ranks, so nothing has to be added to your optimizer.
        decay: Of the exponential mean of the loss, for the closed form.
        lr: Step size on s, for ``"sgd"``.

    Returns:
        The strategy. Lagged. A loss under 1e-8, or negative, counts as 1e-8.

    Raises:
        ValueError: If a name is unknown or a number out of range.

    Gradient:
        :math:`\partial L / \partial L_k = w_k`: s is no parameter of the total, and the terms in s alone are left out
        of it, since they move no weight of the model (with them the total is negative for small losses).

    Source:
        Kendall, Gal and Cipolla, *Multi-Task Learning Using Uncertainty*, 2018, eq. 7 and 10 (arXiv:1705.07115);
        Liebel and Körner, *Auxiliary Tasks in Multi-task Learning*, 2018, eq. 2 (arXiv:1805.06334).
    """
    if kind not in FORMS:
        raise ValueError(f"uncertainty: kind must be one of {', '.join(FORMS)}, got {kind!r}.")
    if learn not in ("closed_form", "sgd"):
        raise ValueError(f"uncertainty: learn must be closed_form or sgd, got {learn!r}.")
    check_range("uncertainty", decay=(decay, "in [0, 1)"), lr=(lr, "> 0"))
    if learn == "closed_form":
        return _closed_form(kind, decay)
    return _liebel_sgd(lr) if kind == "liebel" else _sgd(kind, lr)


def _closed_form(kind: str, decay: float) -> Strategy:
    def log_weights(state: State) -> Tensor:
        loss = state["loss"].clamp(min=SMALLEST)
        return -torch.log((loss + torch.sqrt(loss * loss + 8 * loss)) / 2 if kind == "liebel" else 2 * loss)

    return Strategy("uncertainty", zeros("loss"), smoothed_loss(decay), log_weights)


def _sgd(kind: str, lr: float) -> Strategy:
    half = 1.0 if kind == "classification" else 0.5

    def observe(state: State, observation: Observation) -> State:
        slope = 0.5 - half * torch.exp(-state["log_var"]) * observation.losses.clamp(min=SMALLEST)
        # a loss far above its level would throw s past the optimum by orders of magnitude
        return {"log_var": state["log_var"] - (lr * slope).clamp(-1, 1)}

    return Strategy("uncertainty", zeros("log_var"), observe, lambda state: -state["log_var"])


def _liebel_sgd(lr: float) -> Strategy:
    def observe(state: State, observation: Observation) -> State:
        c = state["c"]
        slope = -observation.losses.clamp(min=SMALLEST) / c**3 + 2 * c / (1 + c * c)
        # c stays positive and moves at most by half of itself
        return {"c": c - torch.minimum(torch.maximum(lr * slope, -c / 2), c / 2)}

    return Strategy(
        "uncertainty",
        lambda count: {"c": torch.ones(count, dtype=torch.float64)},
        observe,
        lambda state: -2 * state["c"].log(),
    )
