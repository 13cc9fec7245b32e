"""From a strategy's own formula to a strategy: absent tasks are frozen and weights scaled here, once for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.tasks.gramian import Gramian, Weights
from sftloss.tasks.strategies.strategy import EXTRA, Observation, State, Strategy

SMALLEST = 1e-8
"""Where a strategy takes a loss's logarithm or divides by it, a smaller one, or a negative one, counts as this."""


@dataclass(frozen=True)
class Formula:
    """A strategy's own mathematics, which :func:`complete` makes a strategy.

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


def complete(
    name: str,
    formula: Formula,
    *,
    needs: str = "losses",
    adaptive: bool = True,
    method: Callable[[Gramian], Weights] | None = None,
) -> Strategy:
    """Return the strategy of a formula, in which an absent task keeps its state and weights have mean 1."""

    def init(count: int) -> State:
        if count < 1:
            raise ValueError(f"{name}: needs at least one task, got {count}.")
        return {**formula.fields(count), "seen": torch.zeros(count, dtype=torch.int64)}

    def update(state: State, observation: Observation) -> State:
        if needs == "gramian" and observation.gramian is None:
            raise ValueError(f"{name}: needs the Gramian of the tasks' gradients, and the observation has none.")
        if needs in EXTRA and observation.extra is None:
            if needs == "validation":  # not measured at this step: nothing new is known
                return dict(state)
            raise ValueError(f"{name}: needs {EXTRA[needs]}, and the observation has no extra.")
        present = _observed(formula, needs, observation)
        losses = torch.where(present, observation.losses.detach().double(), 0)
        extra = None if observation.extra is None else torch.where(present, observation.extra.detach().double(), 0)
        safe = Observation(losses, torch.where(present, observation.counts, 0), observation.gramian, extra)
        fresh = {**formula.observe(state, safe), "seen": state["seen"] + 1}
        return {**state, **{key: _frozen(present, value, state[key]) for key, value in fresh.items()}}

    def weights(state: State) -> Tensor:
        return mean_one(formula.log_weights(state), state["seen"] > 0)

    return Strategy(name, init, update, weights, needs, adaptive, method)


def _observed(formula: Formula, needs: str, observation: Observation) -> Tensor:
    if needs not in EXTRA or observation.extra is None:
        return formula.observed(observation)
    known = torch.isfinite(observation.extra)
    # validation has a loss for a task that trained on nothing in this step
    return known if needs == "validation" else known & formula.observed(observation)


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
    weights = torch.where(total > 0, shares * seen.sum() / torch.where(total > 0, total, 1), 0)
    return torch.where(seen, weights, 1.0)


def zeros(*names: str) -> Callable[[int], State]:
    """Return the fields of one float64 number a task each, from the number of tasks."""
    return lambda count: {name: torch.zeros(count, dtype=torch.float64) for name in names}


def log(losses: Tensor) -> Tensor:
    """Logarithm of losses, of which none counts as less than ``SMALLEST``."""
    return losses.clamp(min=SMALLEST).log()


def exponential_mean(old: Tensor, new: Tensor, seen: Tensor, decay: float) -> Tensor:
    """Exponential mean that starts at the first observation, so it needs no correction."""
    return torch.where(seen == 0, new, decay * old + (1 - decay) * new)


def first_mean(old: Tensor, new: Tensor, seen: Tensor, steps: int) -> Tensor:
    """Mean of the first `steps` observations of each task; later ones change nothing."""
    return torch.where(seen < steps, old + (new - old) / (seen + 1), old)


def smoothed_loss(decay: float, reference_steps: int = 0) -> Callable[[State, Observation], State]:
    """Return an `observe` of the exponential mean ``"loss"`` and, with steps, the first mean ``"first"``."""

    def observe(state: State, observation: Observation) -> State:
        seen, losses = state["seen"], observation.losses
        fresh = {"loss": exponential_mean(state["loss"], losses, seen, decay)}
        return fresh | ({"first": first_mean(state["first"], losses, seen, reference_steps)} if reference_steps else {})

    return observe


def log_norm(state: State, observation: Observation, decay: float) -> State:
    """Return the exponential mean of the logarithm of each gradient's norm, ``"log_norm"``."""
    fresh = observation.squared_norms.log() / 2
    return {"log_norm": exponential_mean(state["log_norm"], fresh, state["seen"], decay)}


_LIMITS: dict[str, Callable[[float], bool]] = {
    "> 0": lambda value: 0 < value < float("inf"),
    ">= 0": lambda value: 0 <= value < float("inf"),
    ">= 1": lambda value: 1 <= value < float("inf"),
    ">= 2": lambda value: 2 <= value < float("inf"),
    "in [0, 1)": lambda value: 0 <= value < 1,
}


def check(name: str, **values: tuple[float, str]) -> None:
    """Check hyper-parameters, each given with its limit: ``check("coba", tau=(tau, "> 0"))``.

    Raises:
        ValueError: Naming the first that is out of range or not finite.
    """
    for key, (value, limit) in values.items():
        if not _LIMITS[limit](value):
            raise ValueError(f"{name}: {key} must be finite and {limit}, got {value}.")
