"""How fast each task learns, relative to its own level: what three strategies are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sftloss.tasks.strategies.formula import exponential_mean, log, zeros
from sftloss.tasks.strategies.strategy import Observation, State


def rings(count: int, window: int) -> Tensor:
    """A ring of `window` float64 numbers a task, ``(tasks, window)``."""
    return torch.zeros(count, window, dtype=torch.float64)


def written(ring: Tensor, seen: Tensor, values: Tensor) -> Tensor:
    """The rings with each task's value in its next place."""
    window = ring.shape[1]
    return torch.where(torch.arange(window, device=ring.device) == (seen % window)[:, None], values[:, None], ring)


def oldest_first(ring: Tensor, seen: Tensor) -> Tensor:
    """Rings from oldest to newest, where they are full."""
    window = ring.shape[1]
    return ring.gather(1, (torch.arange(window, device=ring.device) + seen[:, None]) % window)


def slope_fields(window: int) -> Callable[[int], State]:
    """Return the fields of a window of smoothed losses, from the number of tasks."""
    return lambda count: {**zeros("loss")(count), "past": rings(count, window)}


def observe_slope(decay: float) -> Callable[[State, Observation], State]:
    """Return an `observe` that writes the logarithm of the smoothed loss into each task's ring."""

    def observe(state: State, observation: Observation) -> State:
        loss = exponential_mean(state["loss"], observation.losses, state["seen"], decay)
        return {"loss": loss, "past": written(state["past"], state["seen"], log(loss))}

    return observe


def change(state: State) -> tuple[Tensor, Tensor]:
    """Change of the log loss across the window by least squares, ``(tasks,)``, and where there is a full window."""
    past, seen = state["past"], state["seen"]
    window = past.shape[1]
    x = torch.arange(window, dtype=past.dtype, device=past.device) - (window - 1) / 2
    slope = oldest_first(past, seen) @ x / (x @ x)
    return slope * (window - 1), seen >= window


def neutral_where_unknown(log_weights: Tensor, known: Tensor) -> Tensor:
    """A task without a full window gets the mean log weight of the others, so it is neither favoured nor starved."""
    mean = torch.where(known, log_weights, 0).sum() / known.sum().clamp(min=1)
    return torch.where(known, log_weights, mean)
