"""A run that is killed and resumed ends bit for bit where the uninterrupted one ends."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from tests.finetune.runs import FIELDS, facts_but_for_clock_and_command, finish, here, history, start, weights_digest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from sftloss.errors import ConfigError, DataError
from sftloss.finetune import Interrupted, Recipe, fine_tune
from sftloss.finetune.checkpoint import verify


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts: 6 steps an epoch, checkpoints every 3."""
    output = tmp_path_factory.mktemp("whole")
    here(output)
    return output


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("kill_at", [pytest.param(4, marks=pytest.mark.slow), 7])
def test_a_killed_run_resumes_to_the_same_bytes(whole: Path, tmp_path: Path, kill_at: int) -> None:
    """Dropout is on and steps 4 and 7 are not where log lines or evaluations fall: everything must be restored."""
    finish(start(tmp_path, kill_at=kill_at), code=-signal.SIGKILL)
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "checkpoints" / f"checkpoint-{kill_at // 3 * 3}").is_dir()
    here(tmp_path, resume=True)
    assert weights_digest(tmp_path) == weights_digest(whole)
    assert history(tmp_path) == history(whole)
    assert facts_but_for_clock_and_command(tmp_path) == facts_but_for_clock_and_command(whole)
    counted, expected = (json.loads((run / "train.json").read_text())["tokens"] for run in (tmp_path, whole))
    data = json.loads((whole / "train.json").read_text())["data"]
    assert counted == expected == {"seen": 2 * data["tokens"], "trained": 2 * data["trained_tokens"]}  # two epochs


def test_a_run_killed_after_its_last_step_says_the_same(whole: Path, copied: Path) -> None:
    """Its last checkpoint is there, and nothing of what is written at the end; nothing is trained or told twice."""
    shutil.rmtree(copied / "model")
    (copied / "train.json").unlink()
    here(copied, resume=True)
    assert json.loads((copied / "train.json").read_text())["resumed_from"] == "checkpoint-12"
    assert weights_digest(copied) == weights_digest(whole)
    assert history(copied) == history(whole)
    assert facts_but_for_clock_and_command(copied) == facts_but_for_clock_and_command(whole)


def test_another_seed_ends_elsewhere(whole: Path, tmp_path: Path) -> None:
    """The negative control: equal bytes are not what every run gives."""
    here(tmp_path, seed=1)
    assert weights_digest(tmp_path) != weights_digest(whole)


def test_ctrl_c_saves_a_checkpoint_from_which_the_same_bytes_follow(whole: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        here(tmp_path, kill_at=4, signal=signal.SIGINT)
    assert caught.value.step == 5 and caught.value.checkpoint == tmp_path / "checkpoints" / "checkpoint-5"
    assert signal.getsignal(signal.SIGINT) is before
    here(tmp_path, resume=True)
    assert weights_digest(tmp_path) == weights_digest(whole)


def refusal(output: Path, **fields: object) -> str:
    given = {**FIELDS, "output": str(output), "resume": True, **fields}
    with pytest.raises((ConfigError, DataError)) as caught:
        fine_tune(Recipe(**given))
    return str(caught.value)


PIECES = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "trainer_state.json",
          "sftloss_rank0.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", PIECES)
def test_a_missing_piece_is_refused_by_name(copied: Path, name: str) -> None:
    (copied / "checkpoints" / "checkpoint-12" / name).unlink()
    told = refusal(copied)
    assert f"checkpoint-12 lacks {name}" in told and "resume_from='checkpoint-9'" in told


@pytest.mark.parametrize("name", PIECES)
def test_a_truncated_piece_is_refused_by_name(copied: Path, name: str) -> None:
    path = copied / "checkpoints" / "checkpoint-12" / name
    path.write_bytes(path.read_bytes()[:-100])
    told = refusal(copied)
    assert str(path) in told and "bytes and should have" in told and "resume_from='checkpoint-9'" in told


def test_every_piece_that_a_run_goes_on_from_is_among_these(whole: Path) -> None:
    """But for what `from_pretrained` reads beside the weights; the model here is in memory."""
    files = {path.name for path in (whole / "checkpoints" / "checkpoint-12").iterdir()}
    beside = {"config.json", "generation_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
    assert files - beside == {*PIECES, "sftloss.json"}


@pytest.mark.parametrize("end", [0, 100])
def test_a_truncated_manifest_is_refused_by_name(copied: Path, end: int) -> None:
    path = copied / "checkpoints" / "checkpoint-12" / "sftloss.json"
    path.write_bytes(path.read_bytes()[:end])
    told = refusal(copied)
    assert f"{path} is damaged" in told and "resume_from='checkpoint-9'" in told


def test_a_changed_piece_is_refused_by_name(copied: Path) -> None:
    path = copied / "checkpoints" / "checkpoint-12" / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert f"{path} is not what was written" in refusal(copied)


def test_an_unfinished_checkpoint_is_passed_by(copied: Path) -> None:
    """What a killed writer leaves has another name, so the newest whole one is the newest."""
    unfinished = copied / "checkpoints" / ".unfinished" / "checkpoint-15"
    unfinished.mkdir(parents=True)
    (unfinished / "model.safetensors").write_bytes(b"half")
    assert verify(copied / "checkpoints" / "checkpoint-12")["step"] == 12
    here(copied, resume=True)
    assert json.loads((copied / "train.json").read_text())["resumed_from"] == "checkpoint-12"


def test_other_options_are_refused_by_name(copied: Path) -> None:
    assert "learning_rate=0.001, this run has 0.002" in refusal(copied, learning_rate=2e-3)


def test_other_rows_are_refused(copied: Path) -> None:
    """The recipe names the same file, but its rows are others."""
    manifest = copied / "checkpoints" / "checkpoint-12" / "sftloss.json"
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**told, "data": "other"}))
    assert "other rows (data)" in refusal(copied)


def test_a_folder_with_results_is_not_written_unasked(copied: Path) -> None:
    before = weights_digest(copied)
    assert "already has model, history.jsonl, train.json, checkpoint-12" in refusal(copied, resume=False)
    assert weights_digest(copied) == before


def test_going_on_from_an_earlier_checkpoint_ends_in_the_same_bytes(whole: Path, copied: Path) -> None:
    (copied / "checkpoints" / "checkpoint-12" / "optimizer.pt").unlink()
    here(copied, resume_from="checkpoint-9")
    assert weights_digest(copied) == weights_digest(whole)
    verify(copied / "checkpoints" / "checkpoint-12")
