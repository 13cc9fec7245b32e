"""`sftloss train` under DeepSpeed, stages 2 and 3, on two processes; runs where `pip install deepspeed` did.

Accelerate joins DeepSpeed's processes on accelerators alone, so the runs tell it to (`join_on_the_processor`).
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.finetune.runs import ROOT, finish, here, history, start
from tests.finetune.test_splits import furthest, weights

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from safetensors.torch import load_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
]
# 54 rows are no multiple of 2 x 4; DeepSpeed wants float32
FIELDS: dict[str, Any] = {
    **{"max_examples": 54, "epochs": 1.0, "dropout": 0.0, "eval_share": 0.0, "eval_data": "demo", "eval_every": 2},
    **{
        "loss": "focal(gamma=2)",
        "normalization": "sqrt",
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "max_grad_norm": 0.7,
    },
}


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_ends_where_one_process_ends_also_when_killed_and_resumed(stage: int, tmp_path: Path) -> None:
    config = tmp_path / "zero.yaml"
    example = (ROOT / "examples" / "accelerate_zero3.yaml").read_text()
    config.write_text(example.replace("  zero_stage: 3", f"  zero_stage: {stage}"))
    told = {"ranks": 2, "config": config, "device": "auto", "batch_size": 2, "grad_accum": 2, **FIELDS}
    said = finish(start(tmp_path / "whole", **told))
    assert said.count("world 2" + (" in shards" if stage == 3 else "")) == 2, said
    process = start(tmp_path / "killed", kill_at=4, **told)
    process.communicate(timeout=240)
    checkpoint = tmp_path / "killed" / "checkpoints" / "checkpoint-3"
    assert process.returncode != 0 and (checkpoint / "global_step3").is_dir()  # DeepSpeed's own, in shards
    finish(start(tmp_path / "killed", resume=True, **told))
    facts = json.loads((tmp_path / "killed" / "train.json").read_text())
    assert facts["resumed_from"] == "checkpoint-3" and facts["ranks"] == 2
    whole, ours = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == ours.read_bytes()
    assert history(tmp_path / "whole") == history(tmp_path / "killed")

    alone = here(None, batch_size=8, grad_accum=1, **FIELDS)
    half = here(None, batch_size=4, grad_accum=1, **FIELDS)  # the negative control
    found, expected, other = load_file(ours), weights(alone.model), weights(half.model)
    found = {name: value for name, value in found.items() if name in expected}  # of tied weights both names
    # float32, seven steps, in which ranks add in another order
    assert furthest(found, {name: expected[name] for name in found}) < 1e-6
    assert furthest(found, {name: other[name] for name in found}) > 1e-4
    assert facts["metrics"]["loss"] == pytest.approx(alone.metrics["loss"], rel=1e-6)


def test_zero_hands_out_the_best_checkpoint(tmp_path: Path) -> None:
    """At a rate so high that it is not the last."""
    config = ROOT / "examples" / "accelerate_zero3.yaml"
    high = {**FIELDS, "learning_rate": 2.0, "schedule": "constant", "keep_best": True, "max_grad_norm": 1.0}
    finish(start(tmp_path / "run", ranks=2, config=config, device="auto", batch_size=4, grad_accum=1, **high))
    facts = json.loads((tmp_path / "run" / "train.json").read_text())
    best = facts["best"]["step"]
    assert best < facts["steps"] == 7
    ours, kept = (tmp_path / "run" / p for p in ("model", f"checkpoints/checkpoint-{best}"))
    assert (ours / "model.safetensors").read_bytes() == (kept / "model.safetensors").read_bytes()
    last = tmp_path / "run" / "checkpoints" / "checkpoint-7" / "model.safetensors"
    assert last.read_bytes() != (ours / "model.safetensors").read_bytes()
