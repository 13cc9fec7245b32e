"""How fast each task learns, relative to its own level: what three strategies and the trend are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sftloss.tasks.strategies.strategy import SMALLEST, Observation, State, ema, zeros


def slope_fields(window: int) -> Callable[[int], State]:
    """The fields of a window of smoothed losses, from the number of tasks."""

    def fields(count: int) -> State:
        return {"loss": zeros(count), "past": torch.zeros(count, window, dtype=torch.float64)}

    return fields


def observe_slope(state: State, observation: Observation, decay: float) -> dict[str, Tensor]:
    """Writes the logarithm of the smoothed loss into each task's ring."""
    loss = ema(state["loss"], observation.losses, state["seen"], decay)
    window = state["past"].shape[1]
    here = torch.arange(window, device=loss.device) == (state["seen"] % window)[:, None]
    return {"loss": loss, "past": torch.where(here, loss.clamp(min=SMALLEST).log()[:, None], state["past"])}


def in_order(past: Tensor, seen: Tensor) -> Tensor:
    """Rings ``(tasks, window)`` from oldest to newest, where they are full."""
    window = past.shape[1]
    order = (torch.arange(window, device=past.device) + seen[:, None]) % window
    return past.gather(1, order)


def change(state: State) -> tuple[Tensor, Tensor]:
    """Change of the log loss across the window by least squares, ``(tasks,)``, and where there is a full window."""
    past, seen = state["past"], state["seen"]
    window = past.shape[1]
    x = torch.arange(window, dtype=past.dtype, device=past.device) - (window - 1) / 2
    slope = in_order(past, seen) @ x / (x @ x)
    return slope * (window - 1), seen >= window


def neutral_where_unknown(log_weights: Tensor, known: Tensor) -> Tensor:
    """A task without a full window gets the mean log weight of the others, so it is neither favoured nor starved."""
    mean = torch.where(known, log_weights, 0).sum() / known.sum().clamp(min=1)
    return torch.where(known, log_weights, mean)
