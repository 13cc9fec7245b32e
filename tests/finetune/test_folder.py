"""The output folder: earlier results stay until finished ones replace them, and only what a run wrote is removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.finetune.runs import FIELDS, here, history, weights_digest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from sftloss.errors import ConfigError, DataError
from sftloss.files import locked, seal
from sftloss.finetune import Recipe, fine_tune
from sftloss.finetune.checkpoint import checkpoints
from sftloss.finetune.folder import RunFolder, folder_of
from sftloss.models import DEMO_FOLDER

SHORT: dict[str, Any] = {"max_steps": 2, "save_every": 1, "eval_share": 0.0, "eval_every": None, "keep": 1}


def written(folder: RunFolder, step: int) -> Path:
    """A checkpoint as the Trainer leaves one."""
    path = folder.checkpoints / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_text(f"weights of step {step}")
    seal(path, {"step": step})
    return path


def finished(root: Path, word: str, step: int = 3, **fields: Any) -> None:
    """A run that ends, without a training."""
    with folder_of(Recipe(output=str(root), **fields), 0) as folder:
        if fields.get("overwrite"):
            folder.clear()
        written(folder, step)
        folder.unfinished.mkdir()
        (folder.unfinished / "model.safetensors").write_text(word)
        folder.finish([{"step": step, "loss": 1.0}], {"word": word})


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_run_that_replaces_another_leaves_it_until_its_own_end(tmp_path: Path) -> None:
    finished(tmp_path, "old")
    before = contents(tmp_path)
    with pytest.raises(ZeroDivisionError), folder_of(Recipe(output=str(tmp_path), overwrite=True), 0) as folder:
        folder.clear()
        folder.history.write_text("begun\n")
        _ = 1 / 0
    assert contents(tmp_path) == before
    finished(tmp_path, "new", step=5, overwrite=True)
    after = contents(tmp_path)
    assert after["model/model.safetensors"] == "new" and "checkpoints/checkpoint-3/model.safetensors" not in after
    assert after["checkpoints/checkpoint-5/model.safetensors"] == "weights of step 5"
    assert not any(name.startswith(".") for name in after)


def test_a_run_that_was_killed_while_it_replaced_another_is_continued(tmp_path: Path) -> None:
    """What a killed process leaves: the earlier results, and checkpoints of the next ones."""
    finished(tmp_path, "old")
    killed = RunFolder(tmp_path, tmp_path / ".next")
    written(killed, 1)
    with (
        pytest.raises(ConfigError, match="already has .*an unfinished run"),
        folder_of(Recipe(output=str(tmp_path)), 0),
    ):
        pass
    with folder_of(Recipe(output=str(tmp_path), resume=True), 0) as folder:
        assert folder.work == tmp_path / ".next"
        folder.unfinished.mkdir()
        (folder.unfinished / "model.safetensors").write_text("new")
        folder.finish([], {})
    after = contents(tmp_path)
    assert after["model/model.safetensors"] == "new" and "checkpoints/checkpoint-1/sftloss.json" in after
    assert not (tmp_path / ".next").exists()


def test_a_run_that_is_refused_leaves_nothing_that_a_later_one_would_continue(tmp_path: Path) -> None:
    """The folder is another's: the checkpoint of that run is what --resume continues from."""
    written(RunFolder(tmp_path, tmp_path), 7)
    busy = pytest.raises(ConfigError, match="another run writes there now")
    with locked(tmp_path / ".lock"), busy, folder_of(Recipe(output=str(tmp_path), overwrite=True), 0):
        pass
    (tmp_path / ".next" / "checkpoints").mkdir(parents=True)  # what is left where a run was killed before its first one
    with folder_of(Recipe(output=str(tmp_path), resume=True), 0) as folder:
        assert folder.work == tmp_path and [path.name for path in checkpoints(folder.checkpoints)] == ["checkpoint-7"]


def test_a_run_that_fails_before_its_first_checkpoint_leaves_no_folder_for_them(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), folder_of(Recipe(output=str(tmp_path / "new")), 0):
        _ = 1 / 0
    assert not any((tmp_path / "new").iterdir())


@pytest.mark.parametrize("place", ["model", "checkpoints/checkpoint-3"])
def test_a_folder_with_files_of_others_is_never_replaced(tmp_path: Path, place: str) -> None:
    finished(tmp_path, "old")
    (tmp_path / place / "thesis.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"has files that no run wrote \(thesis.txt\)"):
        finished(tmp_path, "new", overwrite=True)
    assert contents(tmp_path) == before


def test_a_model_of_another_program_is_never_replaced(tmp_path: Path) -> None:
    shutil.copytree(DEMO_FOLDER, tmp_path / "model")
    with pytest.raises(ConfigError, match="has files that no run wrote"):
        finished(tmp_path, "new", overwrite=True)
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_notes_beside_checkpoints_stay(tmp_path: Path) -> None:
    finished(tmp_path, "old")
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    finished(tmp_path, "new", overwrite=True)
    assert (tmp_path / "checkpoints" / "notes.txt").read_text() == "mine"


def test_files_of_a_killed_run_are_in_no_later_model(tmp_path: Path) -> None:
    """A run under adapters is killed while it writes its model; a run of all weights follows."""
    stale = tmp_path / "checkpoints" / ".unfinished" / "adapter_model.safetensors"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"half")
    outcome = here(tmp_path, **SHORT, overwrite=True)
    assert outcome.folder is not None and not (outcome.folder / "model" / "adapter_model.safetensors").exists()


def test_a_model_that_is_trained_into_its_own_folder_is_refused(tmp_path: Path) -> None:
    shutil.copytree(DEMO_FOLDER, tmp_path / "model")
    link = tmp_path.parent / f"{tmp_path.name}-link"
    link.symlink_to(tmp_path / "model")
    for name in (tmp_path / "model", link):
        with pytest.raises(ConfigError, match="which is read"):
            fine_tune(Recipe(**{**FIELDS, "model": str(name), "output": str(tmp_path), "overwrite": True}))
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_training_that_diverges_leaves_the_earlier_model(tmp_path: Path) -> None:
    here(tmp_path, **SHORT)
    digest, lines = weights_digest(tmp_path), history(tmp_path)
    facts = json.loads((tmp_path / "train.json").read_text())
    assert facts["data"]["digest"] in (tmp_path / "model" / "README.md").read_text()  # the model card
    with pytest.raises(DataError, match="loss is not finite"):
        here(tmp_path, **{**SHORT, "max_steps": 6, "save_every": 100, "learning_rate": 1e30}, overwrite=True)
    assert weights_digest(tmp_path) == digest and history(tmp_path) == lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "history.jsonl", "model", "train.json"]


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 423424 vs 423312")

    monkeypatch.setattr("transformers.Trainer._save_optimizer_and_scheduler", full)
    with pytest.raises(RuntimeError, match="unexpected pos"):
        here(tmp_path, **SHORT)
    assert not list(tmp_path.glob("checkpoints/*"))


def test_flags_and_runs_name_the_same_results() -> None:
    """The command line compares these with the inputs before it loads the room."""
    from sftloss.cli.verbs.train import _RESULTS as flags
    from sftloss.finetune.folder import RUN_RESULTS as runs

    assert flags == runs


def test_what_became_of_each_row_is_in_train_json_and_in_the_plan(tmp_path: Path) -> None:
    from sftloss.finetune import plan
    from sftloss.finetune.rows import account_lines

    rows = [{"prompt": f"copy: {i}", "response": "red " * 30} for i in range(8)] + [{"nothing": 1}, {"prompt": "x"}]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe(model="demo", data=str(data), output=str(tmp_path / "run"), max_length=40, max_steps=1,
                    eval_share=0.25, device="cpu")  # fmt: skip
    told: list[Any] = []
    fine_tune(recipe, on_rows=told.extend)
    (account,) = told
    assert json.loads((tmp_path / "run" / "train.json").read_text())["rows"] == told == list(plan(recipe).accounts)
    assert [account[name] for name in ("read", "trained_on", "held_out", "truncated")] == [10, 6, 2, 8]
    assert sum(reason["rows"] for reason in account["refused"].values()) == 2
    assert all(reason["first"][0].startswith(f"{data}:") for reason in account["refused"].values())
    first, *rest = account_lines(account)
    assert first == f"{data}: 10 rows read, 6 trained on, 2 held out, 2 refused, 8 truncated."
    assert any(line.startswith("  2 refused (") and f"First: {data}:" in line for line in rest), rest


def test_rows_left_out_as_too_long_are_in_the_account_of_a_run() -> None:
    from sftloss.data.demo import demo_tokenizer
    from sftloss.finetune.rows import account_lines, read, rows_account

    rows = [{"prompt": f"copy: {i}", "response": "red " * (1 + 30 * (i % 2))} for i in range(8)]
    account = rows_account(read(Recipe(max_length=40, truncate="drop"), rows, demo_tokenizer()))
    first, second = account_lines(account)
    assert first == "rows: 8 rows read, 4 trained on, 0 held out, 0 refused, 4 left out as too long, 0 truncated."
    assert second.startswith("  DATA117: 4 of 8 rows (50 %) are longer than --max-length and left out")
