"""`accelerate launch` with examples/accelerate_fsdp2.yaml: parameters, gradients and optimizer in shards of two ranks.

Accelerate shards on accelerators alone, so the runs set its state to FSDP (`shard_on_the_processor`); its own wrapping,
saving and loading are what runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.finetune.runs import ROOT, finish, here, history, start
from tests.finetune.test_splits import RANKED, furthest, weights

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
# so high a rate that the best of the evaluations is not the last: it is loaded from its checkpoint
HIGH: dict[str, Any] = {**RANKED, "eval_every": 2, "keep_best": True, "learning_rate": 2.0, "schedule": "constant"}


def sharded(output: Path, **fields: Any) -> Any:
    return start(output, ranks=2, config=ROOT / "examples" / "accelerate_fsdp2.yaml", **fields)


def test_sharded_ranks_end_where_one_process_ends(tmp_path: Path) -> None:
    told = finish(sharded(tmp_path / "shards", batch_size=4, grad_accum=1, **HIGH))
    assert told.count("world 2 in shards") == 2, told
    alone = here(tmp_path / "alone", batch_size=8, grad_accum=1, **HIGH)
    ours, facts = load_file(tmp_path / "shards" / "model" / "model.safetensors"), tmp_path / "shards" / "train.json"
    assert ours.keys() >= {name for name in weights(alone.model) if name != "lm_head.weight"}
    assert furthest(ours, {name: value for name, value in weights(alone.model).items() if name in ours}) < 1e-10
    told = json.loads(facts.read_text())
    assert told["best"]["step"] == alone.facts["best"]["step"] < told["steps"]
    metrics = told["metrics"]
    for task, values in alone.metrics["tasks"].items():
        assert metrics["tasks"][task] == pytest.approx(values, rel=1e-10)
    other = here(None, batch_size=4, grad_accum=1, **{**HIGH, "keep_best": False})  # the negative control
    assert furthest(ours, {n: value for n, value in weights(other.model).items() if n in ours}) > 1e-4


def test_sharded_ranks_killed_and_resumed_end_in_the_same_bytes(tmp_path: Path) -> None:
    """Six steps with dropout; the state of AdamW is in shards too. Killed in a step, then before the model is saved."""
    fields: dict[str, Any] = {"grad_accum": 1, "max_examples": 54, "epochs": 1.0}
    finish(sharded(tmp_path / "whole", **fields))
    process = sharded(tmp_path / "killed", kill_at=4, **fields)
    process.communicate(timeout=240)
    assert process.returncode != 0 and not (tmp_path / "killed" / "model").exists()
    for last in (3, 6):
        told = finish(sharded(tmp_path / "killed", resume=True, **fields))
        assert told.count("world 2 in shards") == 2
        resumed = json.loads((tmp_path / "killed" / "train.json").read_text())["resumed_from"]
        assert resumed == f"checkpoint-{last}"
        whole, ours = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "killed"))
        assert whole.read_bytes() == ours.read_bytes()
        assert history(tmp_path / "whole") == history(tmp_path / "killed")
        for name in ("model", "train.json", "history.jsonl"):
            (tmp_path / "killed" / name).rename(tmp_path / f"{name} of {last}")
