"""Rules for every strategy of a run: the base of the loss, bounds, warm-up, and losses that are not finite."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BASES = ("task_mean", "token_mean")
ON_NONFINITE = ("raise", "skip_task")


@dataclass(frozen=True)
class Rules:
    r"""Rules of a :class:`MultiTaskLoss`.

    Attributes:
        base: What the weights multiply, where tokens are given. ``"task_mean"`` is :math:`\sum_k w_k S_k / N_k`: each
            task counts alike, and the derivative in a task's mean loss is its weight. ``"token_mean"`` is
            :math:`\sum_k w_k S_k / \sum_k N_k`: each token counts alike, and weights of 1 are plain training.
        bounds: Lowest and highest weight of an adaptive strategy, around 1; None for none.
        warmup_steps: Steps in which weights stay 1 while states already learn.
        on_nonfinite: ``"raise"`` stops at :meth:`MultiTaskLoss.step`, the same on every rank; ``"skip_task"`` treats
            the task as absent in the step, without waiting for the device.
        window: Losses of each task that are kept, for statistics and trends.
        averaged: Whether gradients are averaged over ranks (DDP, FSDP) and not added, so that a loss over global
            counts has to be multiplied by the number of ranks.
    """

    base: str = "task_mean"
    bounds: tuple[float, float] | None = (0.1, 10.0)
    warmup_steps: int = 0
    on_nonfinite: str = "raise"
    window: int = 100
    averaged: bool = True

    def __post_init__(self) -> None:
        if self.base not in BASES:
            raise ValueError(f"Rules: base must be one of {', '.join(BASES)}, got {self.base!r}.")
        if self.on_nonfinite not in ON_NONFINITE:
            raise ValueError(
                f"Rules: on_nonfinite must be one of {', '.join(ON_NONFINITE)}, got {self.on_nonfinite!r}."
            )
        if self.bounds is not None and not 0 < self.bounds[0] <= 1 <= self.bounds[1] < float("inf"):
            raise ValueError(f"Rules: bounds must be 0 < low <= 1 <= high, got {self.bounds}.")
        if self.window < 1 or self.warmup_steps < 0:
            raise ValueError(
                f"Rules: window must be >= 1 and warmup_steps >= 0, got {self.window} and {self.warmup_steps}."
            )


def bounded(
    weights: Float[Tensor, " tasks"], seen: Bool[Tensor, " tasks"], bounds: tuple[float, float]
) -> Float[Tensor, " tasks"]:
    """Return the weights ``clip(c * w, low, high)`` whose mean over the seen tasks is 1, with c exact.

    The mean is piecewise linear in c with a kink wherever a task enters or leaves its bounds, so c lies between two
    kinks and is interpolated. Weights within the bounds come back as they were; order is kept.

    Args:
        weights: ``>= 0``, mean 1 over the seen tasks.
        seen: Which tasks count; the others are returned as they are.
        bounds: Lowest and highest weight, ``0 < low <= 1 <= high``.
    """
    low, high = bounds
    safe = torch.where(seen, weights.clamp(min=torch.finfo(weights.dtype).tiny), 1)
    kinks = torch.cat([low / safe, high / safe]).sort().values

    def mean_at(c: Tensor) -> Tensor:
        return torch.where(seen, (c[:, None] * safe).clamp(low, high), 0).sum(1) / seen.sum().clamp(min=1)

    means = mean_at(kinks)
    right = (means < 1).sum().clamp(1, kinks.numel() - 1)
    a, b = kinks.gather(0, right[None] - 1), kinks.gather(0, right[None])
    at_a, at_b = means.gather(0, right[None] - 1), means.gather(0, right[None])
    rise = at_b - at_a
    c = torch.where(rise > 0, a + (b - a) * (1 - at_a) / torch.where(rise > 0, rise, 1), a)
    inside = ((weights >= low) & (weights <= high)) | ~seen
    return torch.where(seen & ~inside.all(), (c * safe).clamp(low, high), weights)
