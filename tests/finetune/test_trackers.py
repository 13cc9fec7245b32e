"""The Trainer's own reporting gets what the run logs: here its TensorBoard callback, with a writer that remembers."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from tests.finetune.runs import here

pytest.importorskip("transformers")
pytest.importorskip("accelerate")


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[int, float]]:
    """Scalars by name and step; stands for tensorboard whether or not it is installed."""
    scalars: dict[str, dict[int, float]] = {}

    class Writer:
        def __init__(self, log_dir: str) -> None:
            pass

        def add_scalar(self, name: str, value: float, step: int) -> None:
            scalars.setdefault(name, {})[step] = value

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: None

    package = tmp_path / "tensorboardX"
    package.mkdir()
    (package / "__init__.py").touch()  # transformers only looks whether it is there
    monkeypatch.syspath_prepend(str(tmp_path))
    stub = types.ModuleType("torch.utils.tensorboard")
    stub.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stub)
    return scalars


def test_a_tracker_gets_the_log_and_the_evaluation_of_each_task(written: dict[str, dict[int, float]]) -> None:
    found = here(None, max_steps=4, report_to=("tensorboard",))
    logged = {line["step"]: line["loss"] for line in found.history if "loss" in line}
    assert written["train/loss"] == logged and list(logged) == [2, 4]
    assert {"train/cross_entropy", "train/token_accuracy", "train/learning_rate"} <= written.keys()
    tasks = found.metrics["tasks"]
    assert len(tasks) > 2
    for name, values in tasks.items():
        assert written[f"eval/task_{name}_loss"][4] == values["loss"]
        assert written[f"eval/task_{name}_cross_entropy"].keys() == {0, 4}
    assert written["eval/loss"][4] == found.metrics["loss"]


def test_without_a_tracker_nothing_is_told(written: dict[str, dict[int, float]]) -> None:
    here(None, max_steps=1)
    assert not written
