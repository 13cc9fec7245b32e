"""Rows for the tests of laws, made from the objectives and their records: none has to be added by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from torch import Tensor

from sftloss.objectives import OBJECTIVES, descriptions, extras_of, objective
from sftloss.statistics.checks import read_objective

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
    generator = torch.Generator("cpu").manual_seed(11)
    extras = {}
    for name in extras_of(function):
        size = (len(like), 3) if "candidate" in name else (len(like),)
        drawn = torch.rand(size, generator=generator, dtype=torch.float64, device="cpu")
        extras[name] = ((drawn < 0.5).double() if name.startswith("is_") else -4 * drawn).to(like)
        if name == "candidate_is_target":  # here and there the first
            extras[name] = (torch.arange(3) < (drawn[:, :1] < 0.3)).to(like.device)
        if name == "candidate_ids":  # of the first three ids, each once in a row, and here and there none
            ids = drawn.argsort(dim=1)
            extras[name] = torch.where(drawn < 0.1, -100, ids).to(like.device)
    return extras


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
