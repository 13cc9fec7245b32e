"""From what a caller writes to a strategy: a name, weights by task, or a strategy itself."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sftloss.tasks.gramian import WEIGHTINGS
from sftloss.tasks.strategies import STRATEGIES, Strategy, of_gramian, static


def chosen_strategy(
    choice: str | Mapping[str, float] | Strategy, names: Sequence[str], temperature: float | None
) -> Strategy:
    """The strategy meant.

    Raises:
        ValueError: If a name is unknown, weights do not fit the tasks, or a temperature is given to what has none.
    """
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
    """A strategy by its name in ``STRATEGIES``, or a Gramian method's in ``WEIGHTINGS``, with its hyper-parameters.

    Raises:
        ValueError: If there is none of this name, or it has no such hyper-parameter.
    """
    hyper, known = dict(hyper or {}), [*STRATEGIES, *WEIGHTINGS]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"MultiTaskLoss: unknown weighting_strategy {name!r}; known are {', '.join(known)}.{hint}")
    make = STRATEGIES[name] if name in STRATEGIES else WEIGHTINGS[name]
    takes = [p.name for p in inspect.signature(make).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for key in hyper:
        if key not in takes:
            raise ValueError(f"MultiTaskLoss: {name} has no {key}; it has {', '.join(takes) or 'none'}.")
    if name in STRATEGIES:
        return STRATEGIES[name](**hyper)
    return of_gramian(partial(WEIGHTINGS[name], **hyper), name=name)


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """The tasks' names.

    Raises:
        ValueError: If there are none, or one occurs twice, or one is no text.
    """
    if isinstance(names, str) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"MultiTaskLoss: task_names must be a list of names, got {names!r}.")
    if len(set(names)) != len(names):
        raise ValueError(f"MultiTaskLoss: a task is named twice in {list(names)}.")
    return tuple(names)
