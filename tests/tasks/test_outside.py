"""Strategies from outside: a module that the user names, and a plug-in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sftloss.registry import plug_ins
from sftloss.tasks import MultiTaskLoss, strategy_named
from sftloss.tasks.strategies import STRATEGIES

MODULE = """
from sftloss.tasks.strategies import Strategy
from sftloss.tasks.strategies.pieces import log, smoothed_loss, zeros

def rooted(*, decay=0.9):
    return Strategy("rooted", zeros("loss"), smoothed_loss(decay), lambda state: log(state["loss"]) / 2)

def none(*, decay=0.9):
    return decay
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a module and, on the path, entry points to it."""
    (tmp_path / "own_strategies.py").write_text(MODULE)
    info = tmp_path / "own_plug_in-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-plug-in\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sftloss.strategies]\nrooted = own_strategies:rooted\nlost = own_lost:x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    plug_ins.cache_clear()
    yield tmp_path
    plug_ins.cache_clear()
    sys.modules.pop("own_strategies", None)


@pytest.mark.parametrize("name", ["own_strategies:rooted", "rooted"])
def test_a_strategy_from_outside_weights_tasks(here: Path, name: str) -> None:
    tasks = MultiTaskLoss(["a", "b"], strategy_named(name, {"decay": 0.0}))
    tasks({"a": torch.tensor(4.0), "b": torch.tensor(1.0)})
    tasks.step()
    assert torch.allclose(tasks.weights, torch.tensor([4 / 3, 2 / 3], dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("own_strategie:rooted", {}, "'own_strategie:rooted' cannot be used: there is no module 'own_strategie'"),
        ("own_strategies:root", {}, "has no name 'root' (did you mean 'rooted'?)"),
        ("own_strategies:none", {}, "own_strategies:none returns a float and no Strategy."),
        ("own_strategies:rooted", {"tau": 1.0}, "own_strategies:rooted has no tau; it has decay."),
        ("lost", {}, "'lost' cannot be used: there is no module 'own_lost'"),
        ("roted", {}, "'roted' is no strategy (did you mean 'rooted'?)"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(here: Path, name: str, hyper: dict, message: str) -> None:
    with pytest.raises(ValueError, match="^MultiTaskLoss: ") as caught:
        strategy_named(name, hyper)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_plug_in_replaces_no_strategy_of_ours_and_is_not_imported_before_it_is_named(here: Path) -> None:
    assert strategy_named("gls").name == "gls" and "own_strategies" not in sys.modules
    assert "rooted" not in STRATEGIES
