"""The checkpoint with the lowest held-out loss is kept and handed out, whatever interrupts the run."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.finetune.runs import here, history, weights_digest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from sftloss.errors import ConfigError, DataError
from sftloss.finetune import Interrupted, Recipe

# so high a rate that the held-out loss falls to step 6 and rises after it; of 12 steps
BEST: dict[str, Any] = {"learning_rate": 0.03, "schedule": "constant", "eval_every": 2, "keep": 1, "keep_best": True}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return here(tmp_path_factory.mktemp("whole"), **BEST)


def test_the_lowest_held_out_loss_is_handed_out_and_its_checkpoint_kept(whole: Any) -> None:
    losses = {line["step"]: line["eval_loss"] for line in whole.history if "eval_loss" in line and line["step"]}
    best = min(losses, key=losses.__getitem__)
    assert 0 < best < whole.steps == 12 and list(losses) == [2, 4, 6, 8, 10, 12]
    kept = whole.folder / "checkpoints"
    assert sorted(path.name for path in kept.iterdir()) == ["checkpoint-12", f"checkpoint-{best}"]
    chosen = kept / f"checkpoint-{best}" / "model.safetensors"
    assert (whole.folder / "model" / "model.safetensors").read_bytes() == chosen.read_bytes()
    assert chosen.read_bytes() != (kept / "checkpoint-12" / "model.safetensors").read_bytes()
    told = json.loads((whole.folder / "train.json").read_text())
    assert told["best"] == {"step": best, "loss": losses[best]} and told["metrics"]["loss"] == losses[best]
    assert told["metrics"]["tasks"] and whole.metrics == told["metrics"]


def test_the_model_in_memory_is_the_one_written(whole: Any) -> None:
    from safetensors.torch import load_file

    written = load_file(whole.folder / "model" / "model.safetensors")
    held = whole.model.state_dict()
    assert all(torch.equal(held[name], value) for name, value in written.items())


def test_a_run_stopped_after_its_best_step_still_hands_it_out(whole: Any, tmp_path: Path) -> None:
    """Only the checkpoint knows that step 6 was the best, and what its evaluation said."""
    with pytest.raises(Interrupted):
        here(tmp_path, kill_at=8, signal=signal.SIGINT, **BEST)
    again = here(tmp_path, resume=True, **BEST)
    assert again.facts["resumed_from"] == "checkpoint-9"
    assert weights_digest(tmp_path) == weights_digest(whole.folder)
    assert history(tmp_path) == history(whole.folder)
    assert again.metrics == whole.metrics and again.facts["best"] == whole.facts["best"]


def test_a_run_killed_between_its_last_step_and_its_end_still_hands_it_out(whole: Any, tmp_path: Path) -> None:
    run = shutil.copytree(whole.folder, tmp_path / "run")
    shutil.rmtree(run / "model")
    (run / "train.json").unlink()
    again = here(run, resume=True, **BEST)
    assert weights_digest(run) == weights_digest(whole.folder)
    assert again.metrics == whole.metrics and history(run) == history(whole.folder)


def test_a_best_checkpoint_that_is_damaged_is_refused_by_name(whole: Any, tmp_path: Path) -> None:
    run = shutil.copytree(whole.folder, tmp_path / "run")
    name = f"checkpoint-{whole.facts['best']['step']}"
    (run / "checkpoints" / name / "model.safetensors").unlink()
    with pytest.raises(DataError, match=f"{name} lacks model.safetensors"):
        here(run, resume=True, **BEST)


@pytest.mark.filterwarnings("ignore:.*(tie_word_embeddings|save_embedding_layers):UserWarning")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_best_adapters_are_handed_out(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    lora = {"r": 2, "targets": ["q_proj", "lm_head"]}
    found = here(tmp_path, **{**BEST, "learning_rate": 0.1}, lora=lora, max_steps=6)
    best = found.facts["best"]["step"]
    assert 0 < best < 6
    ours, kept = (
        (tmp_path / place / "adapter_model.safetensors").read_bytes()
        for place in ("model", f"checkpoints/checkpoint-{best}")
    )
    assert ours == kept


def test_without_evaluations_there_is_no_best(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give eval_every and output"):
        Recipe(model="demo", data="demo", eval_share=0.1, output="x", keep_best=True)
    with pytest.raises(ConfigError, match="no rows are held out; give eval_share or eval_data"):
        here(tmp_path, **BEST, eval_share=0.0)
