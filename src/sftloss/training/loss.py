"""What is trained, as a value: an objective, weights, and the one number they are divided by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sftloss.objectives import objective as read_objective
from sftloss.roles import ROLES
from sftloss.statistics import TokenStats
from sftloss.weights import NORMALIZERS, TOKEN_MEAN, Normalization
from sftloss.weights import normalization as read_normalization

if TYPE_CHECKING:
    from sftloss.training.tasks.weighting import TaskWeighting

Objective = Callable[[TokenStats], Tensor]


@dataclass(frozen=True)
class TaskFactors:
    r"""Factors that multiply after the normalization: :math:`c = \lambda_g \, u / Z_g`.

    Attributes:
        factors: One number a task.
        is_mean_per_task: Whether each task is divided by its own normalizer (the loss is a weighted sum of task
            means) or all by one.
        names: What the log calls the tasks, in the order of their indices.
    """

    factors: Sequence[float]
    is_mean_per_task: bool = True
    names: tuple[str, ...] = ()

    def now(self) -> Tensor:
        """The factors of this step, ``(tasks,)``, float64."""
        return torch.tensor(self.factors, dtype=torch.float64)


@dataclass(frozen=True)
class Loss:
    r"""A loss for training: :math:`\sum_i c_i f(s_i)` with :math:`c_i = u_i / Z`, Z one number for the optimizer step.

    Attributes:
        objective: An expression, ``"cross_entropy + 1e-4 * z_loss"``, or any function of token statistics that looks
            at one token at a time.
        normalization: How a sequence's weights depend on its length T, the sum of its weights: ``"token-mean"`` (no
            division: every token counts the same), ``"example-mean"`` (every sequence the same, which teaches
            shorter output), ``"sqrt"``, or an exponent alpha, which multiplies them by T^-alpha.
        roles: Weight by role, as ``{"prompt": 0.1, "response": 1.0}``; a role not named is not trained. The batch
            says roles by a tensor ``roles``; without one, a token whose label is ignored is the prompt's and the
            others are the response's. None trains what the labels do not ignore.
        normalizer: ``"weights"``, ``"sequences"`` or ``"tokens"``: what Z counts. A number is Z itself.
        tasks: Factors by task, fixed or moved by a strategy; the batch then holds ``tasks``, an index a row or a token.
        extras: Names of batch tensors, laid out as the labels are, that the objective reads as ``stats.extras``.
        is_checked: Whether a non-finite loss raises, naming the rows. Asking waits for the device once a micro-batch.

    Raises:
        ValueError: If a name or a number is not one of these, or the objective mixes tokens: then its value depends
            on how the step is cut into micro-batches.

    Example:
        >>> Loss("focal(gamma=2)", normalization="sqrt").objective
        focal(gamma=2)
    """

    objective: str | Objective = "cross_entropy"
    normalization: str | float | Normalization = TOKEN_MEAN
    roles: Mapping[str, float] | None = None
    normalizer: str | float = "weights"
    tasks: TaskFactors | TaskWeighting | None = None
    extras: tuple[str, ...] = ()
    is_checked: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.objective, str):
            object.__setattr__(self, "objective", read_objective(self.objective))
        if not callable(self.objective):
            raise ValueError(f"Loss: objective must be an expression or a function, got {self.objective!r}.")
        if getattr(self.objective, "mixes_tokens", False):
            raise ValueError(
                "Loss: this objective mixes tokens, so its gradient would depend on how a step is cut into "
                "micro-batches; compute it with sftloss.weighted_loss where the whole batch is at hand."
            )
        object.__setattr__(self, "normalization", read_normalization(self.normalization))
        if self.normalization.micro_batch is not None:  # type: ignore[union-attr]
            raise ValueError("Loss: a mean of micro-batch means depends on how a step is cut; divide the whole step.")
        self._check_normalizer()
        for role, weight in (self.roles or {}).items():
            if role not in ROLES or not abs(weight) < float("inf"):
                raise ValueError(f"Loss: roles takes a finite weight for {', '.join(ROLES)}, got {role!r}: {weight}.")

    def _check_normalizer(self) -> None:
        names = [name for name in NORMALIZERS if name != "constant"]
        if isinstance(self.normalizer, str):
            if self.normalizer not in names:
                raise ValueError(f"Loss: normalizer must be {', '.join(names)} or a number, got {self.normalizer!r}.")
        elif not 0 < self.normalizer < float("inf"):
            raise ValueError(f"Loss: a normalizer that is a number must be > 0, got {self.normalizer}.")

    @property
    def alpha(self) -> float:
        """Exponent of the length: 0 for the token mean, 1 for the example mean."""
        return self.normalization.alpha  # type: ignore[union-attr]

    @property
    def counts_tokens(self) -> bool:
        """Whether Z is the number of labels not ignored, whatever the batch holds beside its labels."""
        return self.normalizer in ("weights", "tokens") and not self.alpha and self.roles is None and not self.tasks


def as_loss(loss: Loss | str | Objective) -> Loss:
    """A loss as given, or one with that objective and every other choice at its default."""
    return loss if isinstance(loss, Loss) else Loss(loss)
