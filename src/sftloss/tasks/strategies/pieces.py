"""Pieces that strategies are made of: smoothed losses, windows and slopes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sftloss.tasks.strategies.strategy import Observation, State

SMALLEST = 1e-8
"""Where a strategy takes a loss's logarithm or divides by it, a smaller one, or a negative one, counts as this."""


def zeros(*names: str) -> Callable[[int], State]:
    """Return the fields of one float64 number a task each, from the number of tasks."""
    return lambda count: {name: torch.zeros(count, dtype=torch.float64) for name in names}


def log(losses: Tensor) -> Tensor:
    """Logarithm of losses, of which none counts as less than ``SMALLEST``."""
    return losses.clamp(min=SMALLEST).log()


def exponential_mean(old: Tensor, new: Tensor, seen: Tensor, decay: float) -> Tensor:
    """Exponential mean that starts at the first observation, so it needs no correction."""
    return torch.where(seen == 0, new, decay * old + (1 - decay) * new)


def first_mean(old: Tensor, new: Tensor, seen: Tensor, steps: int) -> Tensor:
    """Mean of the first `steps` observations of each task; later ones change nothing."""
    return torch.where(seen < steps, old + (new - old) / (seen + 1), old)


def smoothed_loss(decay: float, reference_steps: int = 0) -> Callable[[State, Observation], State]:
    """Return an `observe` of the exponential mean ``"loss"`` and, with steps, the first mean ``"first"``."""

    def observe(state: State, observation: Observation) -> State:
        seen, losses = state["seen"], observation.losses
        fresh = {"loss": exponential_mean(state["loss"], losses, seen, decay)}
        return fresh | ({"first": first_mean(state["first"], losses, seen, reference_steps)} if reference_steps else {})

    return observe


def log_norm(state: State, observation: Observation, decay: float) -> State:
    """Return the exponential mean of the logarithm of each gradient's norm, ``"log_norm"``."""
    fresh = observation.squared_norms.log() / 2
    return {"log_norm": exponential_mean(state["log_norm"], fresh, state["seen"], decay)}


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
