"""What a strategy is: explicit state, and pure functions on it. It knows no names of tasks, no ranks and no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sftloss.tasks.gramian import Gramian, Weights, on_present

State = dict[str, Tensor]
"""Tensors of fixed shape: of first axis ``tasks``, or one number for all. ``"seen"`` counts a task's observations."""

EXTRA = {
    "after": "the losses of the step's own tokens, again after the optimizer step",
    "validation": "validation losses, in the first step and whenever there are new ones",
    "excess": "the mean over tokens of max(loss - the reference model's loss, 0)",
}
"""What a strategy with an extra forward pass needs from it, by its ``needs``."""


@dataclass(frozen=True)
class Observation:
    """Results of one optimizer step, over all its micro-batches and ranks. Detached.

    Attributes:
        losses: Mean loss of each task, ``(tasks,)``, nats; any value where the task is absent.
        counts: Weight (tokens, usually) behind each mean, ``(tasks,)``; 0 where the task is absent.
        gramian: Inner products of the tasks' gradients, ``(tasks, tasks)``, for strategies with
            ``needs="gramian"``; rows of absent tasks may hold anything.
        extra: Results of a strategy's extra forward pass, ``(tasks,)``, NaN where there are none; see :data:`EXTRA`.
    """

    losses: Float[Tensor, " tasks"]
    counts: Float[Tensor, " tasks"]
    gramian: Float[Tensor, "tasks tasks"] | None = None
    extra: Float[Tensor, " tasks"] | None = None

    @property
    def present(self) -> Tensor:
        """Which tasks were observed: some weight, and a finite loss, so that no NaN enters a state."""
        return (self.counts > 0) & torch.isfinite(self.losses)

    @property
    def squared_norms(self) -> Tensor:
        """Squared norm of each task's gradient, ``(tasks,)``, float64."""
        assert self.gramian is not None  # `complete` has checked it
        return self.gramian.detach().double().diagonal()

    @property
    def has_gradient(self) -> Tensor:
        """Which tasks are present with a gradient that is finite and not zero."""
        return self.present & torch.isfinite(self.squared_norms) & (self.squared_norms > 0)


@dataclass(frozen=True)
class Strategy:
    """How task weights follow from observations.

    ``weights(update(init(K), observation))`` are the weights for the *next* step: so the forward pass waits for
    nothing, and ranks agree. Weights are detached: the derivative of the total in a task's loss is its weight.

    Attributes:
        name: As in ``STRATEGIES``.
        init: Number of tasks to the first state.
        update: State and observation to the next state; a new one, the old one is left as it was.
        weights: State to weights ``(tasks,)``, float64: mean 1 over the tasks seen so far, 1 for one never seen.
        needs: ``"losses"``, ``"gramian"``, or a key of :data:`EXTRA`.
        adaptive: Whether weights depend on losses or gradients; only those of adaptive strategies are bounded.
        method: For methods on the Gramian: the Gramian of the tasks present to the weights of this very step.
    """

    name: str
    init: Callable[[int], State]
    update: Callable[[State, Observation], State]
    weights: Callable[[State], Float[Tensor, " tasks"]]
    needs: str = "losses"
    adaptive: bool = True
    method: Callable[[Gramian], Weights] | None = None

    def weights_of_step(self, gramian: Gramian, present: Bool[Tensor, " tasks"]) -> Weights:
        """Weights of the step that the Gramian is of, for :meth:`sftloss.tasks.TaskGradients.apply`; absent tasks 0.

        Raises:
            ValueError: If the strategy is no method on the Gramian.
        """
        if self.method is None:
            raise ValueError(f"{self.name}: its weights follow earlier steps; only a method on the Gramian has others.")
        return on_present(self.method, gramian, present)


@dataclass(frozen=True)
class StrategyRecord:
    """What a strategy's file states beside its docstring.

    Attributes:
        settings: Hyper-parameters with which the tests of the laws run it; windows are short there.
        unit: How weights answer to the unit of a task's loss: ``"free"``, not at all; ``"inverse"``, so that a loss in
            other units has the same influence; None, otherwise.
    """

    settings: tuple[Mapping[str, object], ...] = ({},)
    unit: str | None = None
