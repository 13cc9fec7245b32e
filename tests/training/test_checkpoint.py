"""A Trainer with a loss of ours, resumed by the Trainer's own means, logs what the uninterrupted run logs."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.cases import model_of, ragged_rows

from sftloss.errors import ConfigError
from sftloss.training import Loss, attachment_of, collate_rows, with_loss
from sftloss.training.watch.sums import TokenSums

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from tests.training.test_trainer import arguments  # noqa: E402  skips this file too where a package is missing

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")
TOLD = ("loss", "cross_entropy", "entropy", "token_accuracy", "trained_tokens")
STATE = "sftloss_rank0.safetensors"


def run(folder: Path, checkpoint: Path | None = None, cls: Any = None) -> Any:
    """Six steps, a checkpoint in the middle of a line of the log."""
    more = {"max_steps": 6, "learning_rate": 0.01, "logging_steps": 2, "save_strategy": "steps", "save_steps": 3}
    trainer = (cls or with_loss(transformers.Trainer, Loss(normalization="sqrt")))(
        model=model_of(dtype=torch.float32),
        args=arguments(folder, 2, 1, **more),
        train_dataset=ragged_rows(16),
        data_collator=partial(collate_rows, pad_id=0),
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer


def lines(trainer: Any) -> list[dict[str, float]]:
    return [{name: line[name] for name in TOLD} for line in trainer.state.log_history if "loss" in line]


@pytest.fixture
def whole(tmp_path: Path) -> Any:
    return run(tmp_path)


def test_resumed_trainer_logs_what_the_whole_run_does(whole: Any, tmp_path: Path) -> None:
    resumed = run(tmp_path, tmp_path / "checkpoint-3")
    assert len(lines(whole)) == 3 and lines(resumed) == lines(whole)
    ours, own = (attachment_of(trainer.model).spikes.state() for trainer in (resumed, whole))
    assert ours == own
    # each of the two tasks: its index, lowest median, two flags and a count; then 11 losses, because one of the six
    # micro-batches holds rows of one task only
    assert len(own) == 2 * 5 + 11
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_again_begins_its_log_anew(whole: Any, tmp_path: Path) -> None:
    """Neither the checkpoint it went on from before nor what followed its last line is in it."""
    resumed = run(tmp_path, tmp_path / "checkpoint-3")
    resumed.model(**partial(collate_rows, pad_id=0)(ragged_rows(2)))
    resumed.train()
    ours, own = ([line["trained_tokens"] for line in lines(trainer)] for trainer in (resumed, whole))
    assert ours == own


def test_checkpoint_without_our_state_is_gone_on_from_and_told(
    whole: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a plain Trainer's is; the line in which it was made then tells of fewer tokens: the negative control."""
    (tmp_path / "checkpoint-3" / STATE).unlink()
    with caplog.at_level(logging.WARNING, "sftloss.training"):
        resumed = run(tmp_path, tmp_path / "checkpoint-3")
    assert f"{STATE} is missing" in caplog.text
    assert lines(resumed)[1]["trained_tokens"] < lines(whole)[1]["trained_tokens"]


def test_damaged_state_is_refused_by_name(whole: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-3" / STATE
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ConfigError, match=f"{STATE} is damaged"):
        run(tmp_path, tmp_path / "checkpoint-3")


def test_sums_of_another_version_are_refused() -> None:
    with pytest.raises(ConfigError, match="holds 147 sums of the log"):
        TokenSums().restore(torch.zeros(147))
