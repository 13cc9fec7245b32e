"""What holds for every strategy of a run: the base of the loss, bounds, warm-up, what a NaN does."""

from __future__ import annotations

from dataclasses import dataclass

BASES = ("task_mean", "token_mean")
POLICIES = ("raise", "skip_task")


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
        if self.on_nonfinite not in POLICIES:
            raise ValueError(f"Rules: on_nonfinite must be one of {', '.join(POLICIES)}, got {self.on_nonfinite!r}.")
        if self.bounds is not None and not 0 < self.bounds[0] <= 1 <= self.bounds[1] < float("inf"):
            raise ValueError(f"Rules: bounds must be 0 < low <= 1 <= high, got {self.bounds}.")
        if self.window < 1 or self.warmup_steps < 0:
            raise ValueError(
                f"Rules: window must be >= 1 and warmup_steps >= 0, got {self.window} and {self.warmup_steps}."
            )
