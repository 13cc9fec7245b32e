"""What a strategy is: explicit state, and three functions on it. Names, ranks and models are not its business."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

State = dict[str, Tensor]
"""Tensors of fixed shape: of first axis ``tasks``, or one number for all. ``"seen"`` counts a task's observations."""

SMALLEST = 1e-8
"""Where a strategy takes a loss's logarithm or divides by it, a smaller one, or a negative one, counts as this."""


EXTRA = {
    "after": "the losses of the step's own tokens, again after the optimizer step",
    "validation": "validation losses, in the first step and whenever there are new ones",
    "excess": "the mean over tokens of max(loss - the reference model's loss, 0)",
}
"""What a strategy that needs one small forward pass more wants to be told, by its ``needs``."""


@dataclass(frozen=True)
class Observation:
    """What one optimizer step showed, over all its micro-batches and ranks. Detached.

    Attributes:
        losses: Mean loss of each task, ``(tasks,)``, nats; any value where the task is absent.
        counts: Weight (tokens, usually) behind each mean, ``(tasks,)``; 0 says that the task is absent.
        gramian: Inner products of the tasks' gradients, ``(tasks, tasks)``, for strategies with
            ``needs="gramian"``; rows of absent tasks may hold anything.
        extra: What a strategy's extra forward pass showed, ``(tasks,)``, NaN where nothing; see :data:`EXTRA`.
    """

    losses: Float[Tensor, " tasks"]
    counts: Float[Tensor, " tasks"]
    gramian: Float[Tensor, "tasks tasks"] | None = None
    extra: Float[Tensor, " tasks"] | None = None

    @property
    def present(self) -> Tensor:
        """Which tasks were observed: some weight, and a finite loss, so that no NaN enters a state."""
        return (self.counts > 0) & torch.isfinite(self.losses)


@dataclass(frozen=True)
class Strategy:
    """How task weights follow from what was observed.

    ``weights(update(init(K), observation))`` are the weights for the *next* step: so the forward pass waits for
    nothing, and ranks agree.

    Attributes:
        name: As in ``STRATEGIES``.
        init: Number of tasks to the first state.
        update: State and observation to the next state; a new one, the old one is left as it was.
        weights: State to weights ``(tasks,)``, float64: mean 1 over the tasks seen so far, 1 for one never seen.
        needs: ``"losses"``, ``"gramian"``, or a key of :data:`EXTRA`.
        adaptive: Whether weights answer to losses or gradients; only those of adaptive ones are bounded.
    """

    name: str
    init: Callable[[int], State]
    update: Callable[[State, Observation], State]
    weights: Callable[[State], Float[Tensor, " tasks"]]
    needs: str = "losses"
    adaptive: bool = True


@dataclass(frozen=True)
class Rule:
    """A strategy's own mathematics, which :func:`strategy` completes: who is frozen, and how weights are scaled.

    Attributes:
        fields: Number of tasks to the state's own tensors.
        observe: State and observation to new values of some fields, as if every task were present; a field whose
            tasks are coupled reads ``observation.present``.
        log_weights: State to log weights, ``(tasks,)``, up to a common constant; ``-inf`` is weight 0.
        observed: Which tasks this observation is about, if not all that are present.
    """

    fields: Callable[[int], State]
    observe: Callable[[State, Observation], Mapping[str, Tensor]]
    log_weights: Callable[[State], Tensor]
    observed: Callable[[Observation], Tensor] = lambda observation: observation.present


def strategy(name: str, rule: Rule, *, needs: str = "losses", adaptive: bool = True) -> Strategy:
    """Completes a rule. Here, once for all strategies, the state of an absent task is frozen."""

    def init(count: int) -> State:
        if count < 1:
            raise ValueError(f"{name}: needs at least one task, got {count}.")
        return {**rule.fields(count), "seen": torch.zeros(count, dtype=torch.int64)}

    def update(state: State, observation: Observation) -> State:
        if needs == "gramian" and observation.gramian is None:
            raise ValueError(f"{name}: needs the Gramian of the tasks' gradients, and the observation has none.")
        if needs in EXTRA and observation.extra is None:
            if needs == "validation":  # not measured at this step: nothing new is known
                return dict(state)
            raise ValueError(f"{name}: needs {EXTRA[needs]}, and the observation has no extra.")
        present = _observed(rule, needs, observation)
        losses = torch.where(present, observation.losses.detach().double(), 0)
        extra = None if observation.extra is None else torch.where(present, observation.extra.detach().double(), 0)
        safe = Observation(losses, torch.where(present, observation.counts, 0), observation.gramian, extra)
        fresh = {**rule.observe(state, safe), "seen": state["seen"] + 1}
        return {**state, **{key: _frozen(present, value, state[key]) for key, value in fresh.items()}}

    def weights(state: State) -> Tensor:
        return mean_one(rule.log_weights(state), state["seen"] > 0)

    return Strategy(name, init, update, weights, needs, adaptive)


def _observed(rule: Rule, needs: str, observation: Observation) -> Tensor:
    if needs not in EXTRA or observation.extra is None:
        return rule.observed(observation)
    known = torch.isfinite(observation.extra)
    # validation knows a task that trained on nothing in this step
    return known if needs == "validation" else known & rule.observed(observation)


def _frozen(present: Tensor, new: Tensor, old: Tensor) -> Tensor:
    if old.dim() == 0:  # one number for all: it waits until some task is there
        return torch.where(present.any(), new, old)
    return torch.where(present.reshape(-1, *[1] * (old.dim() - 1)), new, old)


def mean_one(log_weights: Float[Tensor, " tasks"], seen: Tensor) -> Float[Tensor, " tasks"]:
    """Weights of mean 1 over the tasks seen so far, 1 for the others; equal ones are exactly 1."""
    inside = torch.where(seen, log_weights.double(), -torch.inf)
    top = inside.max()
    # all weights 0 (or none seen): there is no mean to set to 1, so the weights are what they are
    shares = torch.where(torch.isfinite(top), torch.exp(inside - top), 0)
    total = shares.sum()
    scaled = torch.where(total > 0, shares * seen.sum() / torch.where(total > 0, total, 1), 0)
    return torch.where(seen, scaled, 1.0)


def ema(old: Tensor, new: Tensor, seen: Tensor, decay: float) -> Tensor:
    """Exponential mean that starts at the first observation, so it needs no correction."""
    return torch.where(seen == 0, new, decay * old + (1 - decay) * new)


def check_decay(name: str, decay: float) -> None:
    """Refuses a decay that forgets nothing or makes no sense.

    Raises:
        ValueError: If it is not in [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"{name}: decay must be in [0, 1), got {decay}.")


def check_positive(name: str, **values: float) -> None:
    """Refuses hyper-parameters that are not positive and finite.

    Raises:
        ValueError: Naming the first such.
    """
    for key, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}: {key} must be finite and > 0, got {value}.")


def zeros(count: int) -> Tensor:
    """A field of one float64 number a task."""
    return torch.zeros(count, dtype=torch.float64)
