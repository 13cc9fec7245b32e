"""Rows for the tests of laws, made from the objectives and their records: none has to be added by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest
from torch import Tensor

from sftloss.objectives import OBJECTIVES, descriptions, extras_of, objective
from sftloss.statistics.checks import read_objective
from sftloss.testing import random_extras

ENTRIES = {entry.name: entry for entry in descriptions()}

FURTHER_ROWS = {text: objective(text) for entry in ENTRIES.values() for text in entry.record.examples[1:]}
LAW_ROWS: dict[str, Callable[..., Tensor]] = {
    **OBJECTIVES,
    **FURTHER_ROWS,
    "sum": objective("cross_entropy + 1e-4 * z_loss + 0.1 * entropy_bonus"),
}
"""Every objective at its defaults, every further example of its record, and a sum."""


def made_up_extras(function: Callable[..., Tensor], like: Tensor) -> Mapping[str, Tensor]:
    """Return the batch tensors that an objective reads, drawn at random and laid out as `like`; often none."""
    extras = random_extras(function, len(like))
    return {n: value.to(like) if value.is_floating_point() else value.to(like.device) for n, value in extras.items()}


def engine_rows() -> Iterator[tuple[str, Callable[..., Tensor]]]:
    """Yield one objective for each set of statistics read: another difference does not reach the engine."""
    kinds = set()
    for name, function in OBJECTIVES.items():
        if extras_of(function):
            continue
        kind = frozenset(read_objective(function, {}).fields)
        if kind not in kinds:
            kinds.add(kind)
            yield name, function


ENGINE_ROWS = dict(engine_rows())


def rows_of(*, is_slow: Callable[[str], bool]) -> list[object]:
    """Return the rows of a law as parameters; `is_slow` names those that only `make test-all` runs."""
    marks = {name: (pytest.mark.slow,) if is_slow(name) else () for name in LAW_ROWS}
    return [pytest.param(function, id=name, marks=marks[name]) for name, function in LAW_ROWS.items()]
