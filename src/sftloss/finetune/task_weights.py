"""``tasks:`` of a recipe: a strategy's name and numbers as text, to task weights for the tasks that the data names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sftloss.errors import ConfigError, mention
from sftloss.finetune.recipe import Recipe
from sftloss.finetune.rows import DataSet
from sftloss.finetune.setup import loaded
from sftloss.tasks import MultiTaskLoss, Rules, strategy_named
from sftloss.training import Loss, TaskWeighting
from sftloss.training.tasks.weighting import REFERENCE

_CALL = re.compile(r"\s*([\w.:]+)\s*(?:\((.*)\))?\s*", re.DOTALL)
_FLAGS = ("conflicts", "layerwise")
_RULES = ("base", "low", "high", "warmup_steps", "on_nonfinite", "window")


@dataclass(frozen=True)
class Choice:
    """A weighting as it was written.

    Attributes:
        strategy: Its name.
        hyper: Its hyper-parameters; for ``static`` the weight of each task by name.
        rules: What holds for every strategy.
        flags: ``conflicts`` and ``layerwise`` of :class:`sftloss.training.TaskWeighting`, where given.
        reference: For ``doremi``, where the reference model is; written last. None where its values are stored.
    """

    strategy: str
    hyper: Mapping[str, Any]
    rules: Rules
    flags: Mapping[str, bool]
    reference: str | None = None

    @property
    def needs(self) -> str:
        """The `needs` of the strategy, see :class:`sftloss.tasks.Strategy`."""
        return "losses" if self.strategy == "static" else strategy_named(self.strategy, self.hyper).needs


def with_reference(text: str, place: Path) -> str:
    """A weighting as it was written, and where its reference model is."""
    name, _, inside = text.partition("(")
    return f"{name.strip()}({inside.rstrip().removesuffix(')')}, reference={place})"


def read_choice(text: str) -> Choice:
    """``"dwa(temperature=2, base=token_mean)"`` or ``"static(qa=2, summaries=0.5)"`` as a choice.

    Raises:
        ConfigError: If it cannot be read, or names a strategy, a hyper-parameter or a rule there is none of.

    Example:
        >>> read_choice("dwa(temperature=2)").hyper
        {'temperature': 2}
    """
    match = _CALL.fullmatch(text)
    if match is None:
        raise _error(f"expected a strategy, such as uncertainty or dwa(temperature=2), got {text[:60]!r}")
    name, inside, reference = match[1], match[2] or "", ""
    if name == "doremi":  # a path may hold commas, so it comes last
        inside, _, reference = inside.partition("reference=")
    hyper = _arguments(inside)
    values = {key: hyper.pop(key) for key in _RULES if key in hyper}
    flags = {key: hyper.pop(key) for key in _FLAGS if key in hyper}
    for key, value in flags.items():
        if value not in ("true", "false"):
            raise _error(f"{key} is true or false, got {value!r}")
    bad = [key for key, value in hyper.items() if isinstance(value, str)] if name == "static" else []
    if bad:
        raise _error(f"the weight of {bad[0]} is not a number")
    bounds = (values.pop("low", 0.1), values.pop("high", 10.0))
    try:
        rules = Rules(**values, bounds=bounds)
        strategy_named(name, {} if name == "static" else hyper)
    except TypeError:
        raise _error(f"a value in {text[:60]!r} is a word where {name} takes a number") from None
    except ValueError as error:
        raise _error(str(error).removeprefix("MultiTaskLoss: ")) from None
    return Choice(name, hyper, rules, {key: value == "true" for key, value in flags.items()}, reference.strip() or None)


def reads_stored(recipe: Recipe) -> bool:
    """Whether the task weights read stored values of a reference model."""
    if recipe.tasks is None or not recipe.reference:
        return False
    choice = read_choice(recipe.tasks)
    return choice.needs == "excess" and choice.reference is None


def weighted(loss: Loss, recipe: Recipe, data: DataSet) -> Loss:
    """The loss with the task weights that the recipe asks for; as it was where it asks for none.

    Raises:
        ConfigError: If rows name no task, fixed weights are not those of the data's tasks, or the strategy needs
            evaluations or a reference that the recipe has none of.
        ModelError: If the reference cannot be loaded.
    """
    if recipe.tasks is None:
        return replace(loss, tasks=data.names("task"))  # for the log
    choice, names = read_choice(recipe.tasks), data.names("task")
    nameless = [example for example in data.examples if example.task is None]
    if nameless:
        raise _error(
            f"{len(nameless)} of {len(data.examples)} rows name no task, the first at {nameless[0].origin}",
            f"give each a field task, or name the column that holds it with {mention('columns', 'task=NAME')}",
        )
    if choice.strategy == "static":
        weights = {key: float(value) for key, value in choice.hyper.items()} or dict.fromkeys(names, 1.0)
        if set(weights) != set(names):
            raise _error(f"weights for {_listed(weights)}, but the data's tasks are {_listed(names)}")
        return _with(loss, MultiTaskLoss(names, weights, rules=choice.rules), choice)
    strategy = strategy_named(choice.strategy, choice.hyper)
    if strategy.needs == "validation" and recipe.eval_every is None:
        raise _error(
            f"{choice.strategy} needs the held-out loss of each task during training",
            f"give {mention('eval_share')} (or {mention('eval_data')}) and {mention('eval_every')}",
        )
    weighting, reference = MultiTaskLoss(names, strategy, rules=choice.rules), None
    if strategy.needs == "excess":
        if choice.reference is not None:
            reference = loaded(replace(recipe, model=choice.reference, tokenizer=None, revision=None))[0]
        elif reads_stored(recipe):
            loss = replace(loss, extras=(*loss.extras, REFERENCE))
        else:
            raise _error(
                f"{choice.strategy} needs a reference model, one trained on the same tasks with fixed weights",
                f"name its folder, {choice.strategy}(reference=PATH), or store its values with sftloss reference "
                f"and give {mention('reference')}",
            )
    return _with(loss, weighting, choice, reference)


def _with(loss: Loss, weighting: MultiTaskLoss, choice: Choice, reference: Any = None) -> Loss:
    return replace(loss, tasks=TaskWeighting(weighting, **choice.flags, reference=reference))


def _error(problem: str, cure: str | None = None) -> ConfigError:
    return ConfigError(problem, option="tasks", cure=cure)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _arguments(text: str) -> dict[str, Any]:
    """``"a=1, b=word"`` as values by name."""
    values: dict[str, Any] = {}
    for part in filter(str.strip, text.split(",")):
        key, _, value = map(str.strip, part.partition("="))
        if not key or not value or key in values:
            raise _error(f"expected name=value, each name once, got {part.strip()!r}")
        values[key] = _value(value)
    return values


def _value(text: str) -> Any:
    """A number where it reads as one, else the word."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text
