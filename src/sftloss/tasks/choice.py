"""From what a caller writes to a strategy: a name, weights by task, or a strategy itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sftloss.registry import function_named
from sftloss.tasks.strategies import STRATEGIES, Strategy, static

STRATEGY_GROUP = "sftloss.strategies"
"""The entry points by which installed packages add strategies."""


def chosen_strategy(
    choice: str | Mapping[str, float] | Strategy, names: Sequence[str], temperature: float | None
) -> Strategy:
    """Return the strategy of a name, of weights by task, or the strategy itself."""
    if isinstance(choice, str):
        return strategy_named(choice, {} if temperature is None else {"temperature": temperature})
    if temperature is not None:
        raise ValueError("MultiTaskLoss: temperature goes with a strategy's name; give it to the strategy itself.")
    if isinstance(choice, Strategy):
        return choice
    if set(choice) != set(names):
        raise ValueError(f"MultiTaskLoss: weights for {sorted(choice)}, but the tasks are {sorted(names)}.")
    return static(factors=[choice[name] for name in names])


def strategy_named(name: str, hyper: Mapping[str, Any] | None = None) -> Strategy:
    """Make a strategy from its name and hyper-parameters.

    Args:
        name: A name of ``STRATEGIES``, a plug-in's, or the import path ``my_module:my_strategy`` of a function that
            returns a :class:`Strategy`; the module may be a file in the working directory.
        hyper: Keyword arguments of that function.

    Raises:
        ValueError: If there is none of this name, it has no such hyper-parameter, or it returns no strategy.
    """
    try:
        make: Callable[..., Strategy] = function_named(name, STRATEGIES, STRATEGY_GROUP, "strategy")
    except ValueError as error:
        raise ValueError(f"MultiTaskLoss: {error}") from error.__cause__
    hyper = dict(hyper or {})
    takes = [p.name for p in inspect.signature(make).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    for key in hyper:
        if key not in takes:
            raise ValueError(f"MultiTaskLoss: {name} has no {key}; it has {', '.join(takes) or 'none'}.")
    strategy = make(**hyper)
    if not isinstance(strategy, Strategy):
        raise ValueError(f"MultiTaskLoss: {name} returns a {type(strategy).__name__} and no Strategy.")
    return strategy


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks' names, checked."""
    if isinstance(names, str) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"MultiTaskLoss: task_names must be a list of names, got {names!r}.")
    if len(set(names)) != len(names):
        raise ValueError(f"MultiTaskLoss: a task is named twice in {list(names)}.")
    return tuple(names)
