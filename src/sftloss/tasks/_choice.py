"""From what a caller writes to a strategy: a name, weights by task, or a strategy itself."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence

from .strategies import STRATEGIES, Strategy, static


def chosen_strategy(
    choice: str | Mapping[str, float] | Strategy, names: Sequence[str], temperature: float | None
) -> Strategy:
    """The strategy meant.

    Raises:
        ValueError: If a name is unknown, weights do not fit the tasks, or a temperature is given to what has none.
    """
    if isinstance(choice, str):
        if choice not in STRATEGIES:
            near = difflib.get_close_matches(choice, STRATEGIES, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"MultiTaskLoss: unknown weighting_strategy {choice!r}; known are {', '.join(STRATEGIES)}.{hint}"
            )
        make = STRATEGIES[choice]
        if temperature is None:
            return make()
        if "temperature" not in inspect.signature(make).parameters:
            raise ValueError(f"MultiTaskLoss: {choice} has no temperature; leave it out.")
        return make(temperature=temperature)
    if temperature is not None:
        raise ValueError("MultiTaskLoss: temperature goes with a strategy's name; give it to the strategy itself.")
    if isinstance(choice, Strategy):
        return choice
    if set(choice) != set(names):
        raise ValueError(f"MultiTaskLoss: weights for {sorted(choice)}, but the tasks are {sorted(names)}.")
    return static(factors=[choice[name] for name in names])


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
