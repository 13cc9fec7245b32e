"""What is trained, as a value: an objective, weights, and the one number they are divided by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sftloss.objectives import extras_of, sequence_values_of
from sftloss.objectives import objective as read_objective
from sftloss.objectives.terms import refuse_further_arguments
from sftloss.roles import ROLES
from sftloss.statistics import Objective, Plan
from sftloss.training.tasks.factors import TaskFactor, TaskFactors
from sftloss.weights import NORMALIZERS, TOKEN_MEAN, Normalization
from sftloss.weights import normalization as read_normalization


@dataclass(frozen=True)
class Loss:
    r"""A loss for training: :math:`\sum_i c_i f(s_i)` with :math:`c_i = u_i / Z`, Z one number for the optimizer step.

    Attributes:
        objective: An expression, ``"cross_entropy + 1e-4 * z_loss"``, or any function of token statistics that reads
            each token by itself.
        normalization: How a sequence's weights depend on its length T, the sum of its weights: ``"token-mean"`` (no
            division: every token counts the same), ``"example-mean"`` (every sequence the same, which favours
            shorter output), ``"sqrt"``, or an exponent alpha, which multiplies them by T^-alpha.
        roles: Weight by role, as ``{"prompt": 0.1, "response": 1.0}``; a role that is not named is not trained. They
            are read from the batch's ``roles``, and a batch without is refused: labels do not show whose words an
            ignored token belongs to. None trains the tokens whose label is not ignored.
        normalizer: ``"weights"``, ``"sequences"`` or ``"tokens"``: what Z counts. A number is Z itself.
        tasks: Factors by task, fixed (:class:`TaskFactors`) or moved by a strategy (:class:`TaskWeighting`); the batch
            then holds ``tasks``, an index a row or a token. Task names alone, as ``("qa", "code")``, change no weight:
            the log shows each task's share of the signal under its name.
        extras: Names of batch tensors, laid out as the labels are, that the objective reads as ``stats.extras``. Those
            that an objective by name reads are added.
        tolerance: Relative error that the gradients may have, such as ``2.5e-3``: vocabulary columns that matter little
            are left out where that saves time, see :class:`sftloss.Plan`. 0 is exact.
        is_checked: Whether a non-finite loss raises an error that names the rows. The check waits for the device once
            a micro-batch.

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
    tasks: TaskFactor | Sequence[str] | None = None
    extras: tuple[str, ...] = ()
    is_checked: bool = True
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.objective, str):
            object.__setattr__(self, "objective", read_objective(self.objective))
        if not callable(self.objective):
            raise ValueError(f"Loss: objective must be an expression or a function, got {self.objective!r}.")
        try:
            refuse_further_arguments(self.objective)
        except ValueError as error:
            raise ValueError(f"Loss: {error}") from None
        if getattr(self.objective, "mixes_tokens", False):
            raise ValueError(
                "Loss: this objective mixes tokens, so its gradient would depend on how a step is cut into "
                "micro-batches; compute it with sftloss.weighted_loss where the whole batch is at hand."
            )
        object.__setattr__(self, "extras", tuple(dict.fromkeys((*self.extras, *extras_of(self.objective)))))
        object.__setattr__(self, "normalization", read_normalization(self.normalization))
        if self.normalization.micro_batch is not None:  # type: ignore[union-attr]
            raise ValueError("Loss: a mean of micro-batch means depends on how a step is cut; divide the whole step.")
        object.__setattr__(self, "tasks", _as_factors(self.tasks))
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"Loss: tolerance must be at least 0 and below 1, got {self.tolerance}.")
        self._check_normalizer()
        for role, weight in (self.roles or {}).items():
            if role not in ROLES or not abs(weight) < float("inf"):
                raise ValueError(f"Loss: roles takes a finite weight for {', '.join(ROLES)}, got {role!r}: {weight}.")
            if weight < 0 and self.normalizer == "weights":
                problem = f"roles has {weight} for {role!r}, and a step cannot be divided by weights below 0"
                raise ValueError(f"Loss: {problem}; choose the normalizer tokens or sequences.")

    def _check_normalizer(self) -> None:
        names = [name for name in NORMALIZERS if name != "constant"]
        if isinstance(self.normalizer, str):
            if self.normalizer not in names:
                raise ValueError(f"Loss: normalizer must be {', '.join(names)} or a number, got {self.normalizer!r}.")
        elif not 0 < self.normalizer < float("inf"):
            raise ValueError(f"Loss: a normalizer that is a number must be > 0, got {self.normalizer}.")

    @property
    def function(self) -> Objective:
        """The objective as a function."""
        return self.objective  # type: ignore[return-value]  # an expression was read when the loss was made

    @property
    def task_factor(self) -> TaskFactor:
        """The factors by task; without tasks those that do nothing."""
        return self.tasks  # type: ignore[return-value]  # names and None were read when the loss was made

    @property
    def sequence_values(self) -> tuple[str, ...]:
        """The values of whole sequences that the objective reads, see :func:`sftloss.weights.sequence_values`."""
        return sequence_values_of(self.function)

    @property
    def plan(self) -> Plan:
        """How the fused loss computes: with the statistics of the log, and this tolerance."""
        return Plan(fields=("entropy",), tolerance=self.tolerance)

    @property
    def alpha(self) -> float:
        """Exponent of the length: 0 for the token mean, 1 for the example mean."""
        return self.normalization.alpha  # type: ignore[union-attr]

    @property
    def counts_tokens(self) -> bool:
        """Whether Z is the number of labels not ignored, whatever else the batch holds."""
        is_count = self.normalizer in ("weights", "tokens") and not self.alpha and self.roles is None
        return is_count and not self.task_factor.is_weighting


def as_loss(loss: Loss | str | Objective) -> Loss:
    """The loss itself, or one with this objective and every other choice at its default."""
    return loss if isinstance(loss, Loss) else Loss(loss)


def _as_factors(tasks: TaskFactor | Sequence[str] | None) -> TaskFactor:
    if tasks is None or isinstance(tasks, (list, tuple)):
        names = tuple(tasks or ())
        if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise ValueError(f"Loss: tasks takes names, each once, or factors by task, got {tasks!r}.")
        return TaskFactors(names=names)
    if isinstance(tasks, str) or not hasattr(tasks, "is_weighting"):
        raise ValueError(f"Loss: tasks takes a list of names, TaskFactors or a TaskWeighting, got {tasks!r}.")
    return tasks  # type: ignore[return-value]
