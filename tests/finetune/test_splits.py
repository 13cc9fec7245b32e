"""However a step is cut into micro-batches and ranks, the trained weights are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.finetune.runs import entries, finish, here, history, start

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from safetensors.torch import load_file

from sftloss.errors import ConfigError

# lengths and tasks differ from row to row; 60 rows in steps of 8 leave an incomplete window at the end
STEP: dict[str, Any] = {"dtype": "float64", "dropout": 0.0, "epochs": 1.0, "eval_share": 0.0, "eval_every": None}
HARD: dict[str, Any] = {
    **STEP,
    "loss": "focal(gamma=2)",
    "normalization": "sqrt",
    "optimizer": "sgd",
    "learning_rate": 0.05,
}

RANKED: dict[str, Any] = {**HARD, "max_examples": 68, "eval_share": 0.2, "eval_every": 5}


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def furthest(ours: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> float:
    return max(float((ours[n].double() - truth[n].double()).norm() / truth[n].double().norm()) for n in truth)


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    return weights(here(None, batch_size=8, grad_accum=1, **HARD).model)


@pytest.mark.parametrize(("batch", "accumulation"), [(2, 4), (1, 8)])
def test_micro_batches_do_not_change_the_trained_weights(whole: Any, batch: int, accumulation: int) -> None:
    """After 8 optimizer steps in float64; sums in another order."""
    split = here(None, batch_size=batch, grad_accum=accumulation, **HARD)
    assert split.steps == 8
    assert furthest(weights(split.model), whole) < 1e-10


def test_micro_batches_of_another_step_size_do(whole: Any) -> None:
    """The negative control."""
    assert furthest(weights(here(None, batch_size=4, grad_accum=1, **HARD).model), whole) > 1e-4


def test_packing_does_not_change_the_trained_weights() -> None:
    """All rows in one step: packed rows hold several examples, so only then does a step hold the same ones."""
    one = {**HARD, "epochs": 2.0}
    apart = here(None, batch_size=60, grad_accum=1, **one)
    packed = here(None, batch_size=60, grad_accum=1, packing=True, max_length=256, **one)
    assert packed.facts["data"]["rows"] < 30 and packed.steps == apart.steps == 2
    assert furthest(weights(packed.model), weights(apart.model)) < 1e-10


def test_activations_computed_twice_do_not_change_the_trained_weights(whole: Any) -> None:
    found = here(None, batch_size=8, grad_accum=1, gradient_checkpointing=True, **HARD)
    assert furthest(weights(found.model), whole) < 1e-10


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes; 54 rows are no multiple of 2 x 4, so one rank's last batch is filled up with nothing."""
    output = tmp_path_factory.mktemp("ranks")
    # auto finds the processor too: left alone, Accelerate would join no processes there
    device = "cpu" if torch.accelerator.is_available() else "auto"
    told = finish(start(output, ranks=2, batch_size=4, grad_accum=1, **{**RANKED, "device": device}))
    assert told.count("world 2") == 2, told
    return output


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return here(tmp_path_factory.mktemp("alone"), batch_size=8, grad_accum=1, **RANKED)


def test_processes_that_would_each_be_a_run_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sftloss.finetune.setup._is_cpu", lambda device: False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="started 2 processes, of which Accelerate joins 1"):
        here(tmp_path, max_steps=1)
    assert not (tmp_path / "checkpoints" / "checkpoint-1").exists()


def test_two_ranks_end_where_one_process_ends(ranks: Path, alone: Any) -> None:
    told = json.loads((ranks / "train.json").read_text())
    assert told["ranks"] == 2
    assert furthest(load_file(ranks / "model" / "model.safetensors"), weights(alone.model)) < 1e-10
    assert told["metrics"]["trained_tokens"] == alone.metrics["trained_tokens"]  # no row is counted twice
    assert told["metrics"]["tasks"].keys() == alone.metrics["tasks"].keys()
    for task, values in alone.metrics["tasks"].items():
        assert told["metrics"]["tasks"][task] == pytest.approx(values, rel=1e-10)


def test_two_ranks_log_what_one_process_logs(ranks: Path, alone: Any) -> None:
    for ours, theirs in zip(entries(ranks), entries(alone.folder), strict=True):
        for name in ("seen_tokens", "eval_seen_tokens"):  # rows that fill up the last batches are seen too
            assert ours.pop(name, 0) >= theirs.pop(name, 0)
        for line in (ours, theirs):
            line.pop("total_flos", None)  # the Trainer counts padding, which differs with the micro-batches
        assert ours == pytest.approx(theirs, rel=1e-5)  # the Trainer keeps losses in float32


@pytest.mark.slow
def test_two_ranks_with_the_batch_of_one_do_not(ranks: Path) -> None:
    """The negative control: a launcher that started one process would end here."""
    one = here(None, batch_size=4, grad_accum=1, **RANKED)
    assert furthest(load_file(ranks / "model" / "model.safetensors"), weights(one.model)) > 1e-4


@pytest.mark.slow
def test_two_ranks_killed_and_resumed_end_in_the_same_bytes(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"grad_accum": 1, "max_examples": 54}
    finish(start(tmp_path / "whole", ranks=2, **fields))
    process = start(tmp_path / "killed", ranks=2, kill_at=4, **fields)
    process.communicate(timeout=240)
    assert process.returncode != 0
    told = finish(start(tmp_path / "killed", ranks=2, resume=True, **fields))
    assert told.count("world 2") == 2
    assert json.loads((tmp_path / "killed" / "train.json").read_text())["resumed_from"] == "checkpoint-3"
    whole, ours = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == ours.read_bytes()
    assert history(tmp_path / "whole") == history(tmp_path / "killed")
