"""What a strategy is: explicit state, and pure functions on it. It knows no names of tasks, no ranks and no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sftloss.registry import Function, attach_record
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
        assert self.gramian is not None  # `update` has checked it
        return self.gramian.detach().double().diagonal()

    @property
    def has_gradient(self) -> Tensor:
        """Which tasks are present with a gradient that is finite and not zero."""
        return self.present & torch.isfinite(self.squared_norms) & (self.squared_norms > 0)


@dataclass(frozen=True)
class Strategy:
    """How task weights follow from observations: a formula, and the rules that are the same for all.

    ``weights(update(init(K), observation))`` are the weights for the *next* step: so the forward pass waits for
    nothing, and ranks agree. A task absent from a step keeps its state. Weights have mean 1 over the tasks seen so far,
    and they are detached: the derivative of the total in a task's loss is its weight.

    Attributes:
        name: As in ``STRATEGIES``.
        fields: Number of tasks to the state's own tensors.
        observe: State and observation to new values of some fields, as if every task were present; a field whose
            tasks are coupled reads ``observation.present``.
        log_weights: State to log weights, ``(tasks,)``, up to a common constant; ``-inf`` is weight 0.
        needs: ``"losses"``, ``"gramian"``, or a key of :data:`EXTRA`.
        adaptive: Whether weights depend on losses or gradients; only those of adaptive strategies are bounded.
        method: For methods on the Gramian: the Gramian of the tasks present to the weights of this very step.
    """

    name: str
    fields: Callable[[int], State]
    observe: Callable[[State, Observation], Mapping[str, Tensor]]
    log_weights: Callable[[State], Tensor]
    needs: str = "losses"
    adaptive: bool = True
    method: Callable[[Gramian], Weights] | None = None

    def init(self, count: int) -> State:
        """Return the first state of `count` tasks."""
        if count < 1:
            raise ValueError(f"{self.name}: needs at least one task, got {count}.")
        return {**self.fields(count), "seen": torch.zeros(count, dtype=torch.int64)}

    def update(self, state: State, observation: Observation) -> State:
        """Return the next state; the old one is left as it was.

        Raises:
            ValueError: If the observation lacks the Gramian or the extra losses that the strategy needs.
        """
        if self.needs == "gramian" and observation.gramian is None:
            raise ValueError(f"{self.name}: needs the Gramian of the tasks' gradients, and the observation has none.")
        if self.needs in EXTRA and observation.extra is None:
            if self.needs == "validation":  # not measured at this step: nothing new is known
                return dict(state)
            raise ValueError(f"{self.name}: needs {EXTRA[self.needs]}, and the observation has no extra.")
        present = self._about(observation)
        losses = torch.where(present, observation.losses.detach().double(), 0)
        extra = None if observation.extra is None else torch.where(present, observation.extra.detach().double(), 0)
        safe = Observation(losses, torch.where(present, observation.counts, 0), observation.gramian, extra)
        fresh = {**self.observe(state, safe), "seen": state["seen"] + 1}
        return {**state, **{key: _frozen(present, value, state[key]) for key, value in fresh.items()}}

    def weights(self, state: State) -> Weights:
        """Return weights, ``(tasks,)``, float64: mean 1 over the tasks seen so far, 1 for one never seen."""
        return mean_one(self.log_weights(state), state["seen"] > 0)

    def weights_of_step(self, gramian: Gramian, present: Bool[Tensor, " tasks"]) -> Weights:
        """Weights of the step that the Gramian is of, for :meth:`sftloss.tasks.TaskGradients.apply`; absent tasks 0.

        Raises:
            ValueError: If the strategy is no method on the Gramian.
        """
        if self.method is None:
            raise ValueError(f"{self.name}: its weights follow earlier steps; only a method on the Gramian has others.")
        return on_present(self.method, gramian, present)

    def _about(self, observation: Observation) -> Tensor:
        """Return which tasks the observation is about."""
        if self.needs == "gramian":
            return observation.has_gradient
        if self.needs not in EXTRA or observation.extra is None:
            return observation.present
        known = torch.isfinite(observation.extra)
        # validation has a loss for a task that trained on nothing in this step
        return known if self.needs == "validation" else known & observation.present


def _frozen(present: Tensor, new: Tensor, old: Tensor) -> Tensor:
    if old.dim() == 0:  # one number for all: it waits until some task is there
        return torch.where(present.any(), new, old)
    return torch.where(present.reshape(-1, *[1] * (old.dim() - 1)), new, old)


def mean_one(log_weights: Float[Tensor, " tasks"], seen: Tensor) -> Weights:
    """Weights of mean 1 over the tasks seen so far, 1 for the others; equal ones are exactly 1."""
    inside = torch.where(seen, log_weights.double(), -torch.inf)
    top = inside.max()
    # all weights 0 (or none seen): there is no mean to set to 1, so the weights are what they are
    shares = torch.where(torch.isfinite(top), torch.exp(inside - top), 0)
    total = shares.sum()
    weights = torch.where(total > 0, shares * seen.sum() / torch.where(total > 0, total, 1), 0)
    return torch.where(seen, weights, 1.0)


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


def recorded(
    *, settings: tuple[Mapping[str, object], ...] = ({},), unit: str | None = None
) -> Callable[[Function], Function]:
    """Return a decorator that puts a function of this room into ``STRATEGIES``, with its :class:`StrategyRecord`."""
    return attach_record(StrategyRecord(settings, unit))
