"""The checkpoint with the lowest held-out loss: remembered through every resume, kept, and handed out at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Best:
    """The best step so far; checkpoints hold it beside the run's other state.

    Attributes:
        step: Optimizer step, 0 before the first evaluation.
        loss: Its held-out loss, of the loss trained.
        metrics: Its evaluation, as :class:`Outcome` has them.
    """

    step: int = 0
    loss: float = float("inf")
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def look(self, step: int, metrics: Mapping[str, Any]) -> None:
        """An evaluation at a step; the earlier of two equals stays. The model before training is no candidate."""
        if step and metrics["loss"] < self.loss:
            self.step, self.loss, self.metrics = step, metrics["loss"], dict(metrics)

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
