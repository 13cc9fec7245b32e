"""Trackers receive what a run logs, and reports: TensorBoard's callback with a writer that remembers, and where they
are installed (`make test-hosts`) TensorBoard, W&B and trackio, each read back from what it wrote."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import types
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.finetune.runs import entries, environment, finish, here, start
from tests.paths import ROOT

from sftloss import Report
from sftloss.document import Document, Finding
from sftloss.errors import ConfigError
from sftloss.finetune import Lora, Recipe, fine_tune

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


@pytest.mark.parametrize("package", ["accelerate", "peft"])
def test_a_missing_package_is_named_with_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sftloss.finetune.setup.find_spec", lambda name: None if name == package else name)
    with pytest.raises(ConfigError, match=rf'{package}.*pip install "sftloss\[train\]"'):
        fine_tune(Recipe(model="demo", data="demo", lora=Lora(r=2)))


def reported(folder: Path, tracker: str) -> dict[str, dict[int, float]]:
    """What the history of a run that reports there says of its loss and of its evaluation, by step."""
    finish(start(folder, max_steps=4, report_to=[tracker], save_every=4))
    lines = entries(folder)
    names = {"train/loss": "loss", "train/cross_entropy": "cross_entropy", "eval/task_copy_loss": "eval_task_copy_loss"}
    found = {ours: {line["step"]: line[name] for line in lines if name in line} for ours, name in names.items()}
    assert list(found["train/loss"]) == [2, 4] and list(found["eval/task_copy_loss"]) == [0, 4]
    return found


def test_tensorboard_has_it_in_an_event_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    expected = reported(tmp_path / "run", "tensorboard")
    read = events.EventAccumulator(str(tmp_path / "events")).Reload()
    for name, values in expected.items():
        # an event holds float32
        assert {event.step: event.value for event in read.Scalars(name)} == pytest.approx(values, rel=1e-6)


def records_of(path: Path) -> list[bytes]:
    """The records of a W&B file: after a header, blocks of 32 KiB of (checksum, length, kind, bytes), as LevelDB's."""
    raw, block, whole, part, at = path.read_bytes(), 2**15, [], b"", 7
    while at + 7 <= len(raw):
        if block - at % block < 7:  # what is left of a block is too small for a head
            at += block - at % block
            continue
        size, kind = int.from_bytes(raw[at + 4 : at + 6], "little"), raw[at + 6]
        part, at = part + raw[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, or the last part
            whole.append(part)
            part = b""
    return whole


def test_wandb_has_it_in_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    expected = reported(tmp_path / "run", "wandb")
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    found: dict[str, dict[int, float]] = {}
    for record in map(Record.FromString, records_of(path)):
        items = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
        for name in expected.keys() & items.keys():
            found.setdefault(name, {})[items["train/global_step"]] = items[name]
    assert found == expected


def test_trackio_has_it_in_a_local_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    expected = reported(tmp_path / "run", "trackio")
    (path,) = (tmp_path / "trackio").glob("*.db")
    with closing(sqlite3.connect(path)) as database:
        told = [json.loads(values) for (values,) in database.execute("select metrics from metrics")]
    found: dict[str, dict[int, float]] = {}
    for line in told:
        for name in expected.keys() & line.keys():
            found.setdefault(name, {})[line["train/global_step"]] = line[name]
    assert found == expected


REPORT = Report(Document("Tiny", (), (Finding("MASK003", "warning", "Half is masked.", "", "look", 0.5),), ()))


@pytest.mark.parametrize(("package", "page"), [("wandb", "Html"), ("trackio", "Markdown")])
def test_a_report_is_logged_as_page_and_numbers(package: str, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker: Any = types.ModuleType(package)
    logged: list[dict[str, Any]] = []
    setattr(tracker, page, lambda content: content if isinstance(content, str) else content.read())
    run = type("Run", (), {"__module__": f"{package}.run", "log": lambda self, values: logged.append(values)})()
    monkeypatch.setitem(sys.modules, package, tracker)
    REPORT.log_to(run, "mask")
    assert "Half is masked." in logged[0].pop("mask/report")
    assert logged == [{"mask/errors": 0, "mask/warnings": 1, "mask/infos": 0, "mask/MASK003": 0.5}]


def test_a_report_refuses_another_tracker() -> None:
    with pytest.raises(TypeError, match="one of wandb or trackio, got int of builtins"):
        REPORT.log_to(3)


def test_wandb_takes_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = wandb.init(project="sft", dir=str(tmp_path))
    REPORT.log_to(run)
    run.finish()
    (page,) = tmp_path.rglob("*.html")
    assert "Half is masked." in page.read_text(encoding="utf-8")


TRACKIO = """
import trackio
from tests.finetune.test_trackers import REPORT
REPORT.log_to(trackio.init(project="sft"))
trackio.finish()
"""


def test_trackio_takes_a_report(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    environ = {**environment(), "TRACKIO_DIR": str(tmp_path)}  # read when trackio is imported
    subprocess.run([sys.executable, "-c", TRACKIO], env=environ, check=True, cwd=ROOT)
    (path,) = tmp_path.glob("*.db")
    with closing(sqlite3.connect(path)) as database:
        ((values,),) = database.execute("select metrics from metrics")
    logged = json.loads(values)
    assert logged["sftloss/MASK003"] == 0.5 and "Half is masked." in json.dumps(logged)
