"""Factors by task: the protocol training uses, and the fixed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sftloss.decoder import ModelPort
from sftloss.training.passes import Pass


class TaskFactor(Protocol):
    """Factors that multiply the coefficients by task, fixed or moved by a strategy.

    Subclasses write the methods that do something for them. By default tasks have names and no factors.

    Attributes:
        names: Names of the tasks for the log, in the order of their indices.
        is_weighting: Whether factors multiply at all; otherwise the tasks are named for the log only.
        is_mean_per_task: Whether each task is divided by its own normalizer, or all tasks by one.
        is_repeating: Whether the passes now under way repeat a finished step and so are not counted.
    """

    is_repeating: bool = False

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def is_weighting(self) -> bool: ...
    @property
    def is_mean_per_task(self) -> bool: ...

    def now(self) -> Float[Tensor, " tasks"] | None:
        """Factors of the step that begins, float64; every rank calls it. None where nothing multiplies."""
        return None

    def outside_of_a_step(self, is_training: bool) -> Float[Tensor, " tasks"] | None:
        """Factors of a pass that belongs to no optimizer step."""
        return self.now()

    def bind(self, model: nn.Module, port: ModelPort, extras: Sequence[str]) -> None:
        """Prepare for a model whose batches hold these extras; :func:`attach` calls it."""
        return None

    def check(self, arguments: Any) -> None:
        """Refuse a Trainer's arguments under which the factors cannot work."""
        return None

    def capture(self, batch: Mapping[str, Any]) -> AbstractContextManager[None]:
        """A context around one forward and backward pass of a batch."""
        return nullcontext()

    def observe(self, seen: Pass) -> None:
        """Read one pass."""
        return None

    def step(self) -> None:
        """End an optimizer step; every rank calls it."""
        return None

    def end_evaluation(self) -> None:
        """End an evaluation; every rank calls it."""
        return None

    def metrics(self) -> dict[str, float]:
        """Values for the log."""
        return {}

    def facts(self) -> dict[str, Any] | None:
        """Values for the record of a finished run."""
        return None

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint."""
        return None

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote."""
        return None


@dataclass(frozen=True)
class TaskFactors(TaskFactor):
    r"""Fixed factors that multiply after the normalization: :math:`c = \lambda_g \, u / Z_g`.

    Attributes:
        factors: One number a task, by index, or by name where `names` is left out. Without a factor nothing
            multiplies, and the tasks are named for the log only.
        is_mean_per_task: Whether each task is divided by its own normalizer (the loss is a weighted sum of task
            means) or all tasks by one.
        names: Names of the tasks for the log, in the order of their indices.

    Raises:
        ValueError: If there is a name too many or too few.

    Example:
        >>> TaskFactors({"qa": 1.0, "code": 0.5}).names
        ('qa', 'code')
    """

    factors: Sequence[float] | Mapping[str, float] = ()
    is_mean_per_task: bool = True
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.factors, Mapping):
            object.__setattr__(self, "names", tuple(self.factors))
            object.__setattr__(self, "factors", tuple(self.factors.values()))
        if self.names and self.factors and len(self.names) != len(self.factors):
            raise ValueError(f"TaskFactors: {len(self.factors)} factors for {len(self.names)} names.")

    @property
    def is_weighting(self) -> bool:
        return len(self.factors) > 0

    def now(self) -> Float[Tensor, " tasks"] | None:
        return torch.tensor(self.factors, dtype=torch.float64) if self.is_weighting else None
