"""`sftloss train` as a person uses it, on the demo."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import MISSING, fields
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.cli.tools import run, write_rows
from tests.finetune.runs import PLANTED, write_planted

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from sftloss.cli.options import Verbosity, recipe_fields
from sftloss.cli.show import print_note
from sftloss.cli.verbs.train import TrainOptions, _print_table
from sftloss.config import options_of
from sftloss.errors import ConfigError
from sftloss.finetune import Recipe

DEMO = ("train", "--model", "demo", "--data", "demo", "--device", "cpu")
SHORT = (*DEMO, "--max-examples", 60, "--max-steps", 3, "--logging-every", 1, "--eval-share", 0.2)


def test_train_writes_a_model_a_history_and_where_they_came_from(tmp_path: Path) -> None:
    # 16 rows a step: calls of fewer than 32 tokens are not filtered
    done = run(*SHORT, "--loss", "dft", "--tolerance", 0.05, "--batch-size", 16, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out" / "train.json").read_text())
    assert told["steps"] == 3 and told["recipe"]["loss"] == "dft" and told["command"].startswith("sftloss train")
    assert told["versions"]["transformers"] and len(told["data"]["digest"]) == 64
    assert {"loss", "cross_entropy"} <= told["metrics"]["tasks"]["add"].keys()
    lines = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    assert all(0 < line["filter_error"] <= 0.05 for line in lines if "loss" in line)
    assert told["filter"]["kept"] < 1 and "of their mass was replaced" in done.stdout
    assert (tmp_path / "out" / "model" / "tokenizer.json").is_file()
    assert "<svg" in (tmp_path / "out" / "curve.html").read_text(encoding="utf-8")
    assert not list((tmp_path / "out").rglob("training_args.bin"))
    from sftloss.decoder import load_model

    load_model(tmp_path / "out" / "model")
    assert "held out" in done.stdout and "step 3/3" in done.stderr and " tokens/s" in done.stderr


def test_tasks_are_weighted_logged_and_shown(tmp_path: Path) -> None:
    done = run(*SHORT, "--tasks", "gls(base=token_mean)", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out" / "train.json").read_text())["tasks"]
    assert told["strategy"] == "gls" and told["base"] == "token_mean" and told["by_task"]["copy"]["weight"] != 1
    lines = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    over_time = [line["task_weight/copy"] for line in lines if "task_weight/copy" in line]
    assert len(over_time) == 3 and over_time[-1] == told["by_task"]["copy"]["weight"]
    assert "effective" in done.stdout and f"{over_time[-1]:.3f}" in done.stdout


def test_names_of_tasks_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("[/bold]", "[red]a", "b\x1b[31m\u202e")
    _print_table("en", "task", {"loss": ("loss", ".2f")}, {name: {"loss": 1.0} for name in names})
    print_note("\x1b[31mc", Verbosity())
    shown = capsys.readouterr()
    assert "[/bold]" in shown.out and "[red]a" in shown.out and "b " in shown.out
    assert not {"\x1b", "\u202e"} & set(shown.out + shown.err)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--roles", "prompt=-1"), "--roles: has -1.0 for 'prompt', and a step cannot be divided by weights below 0"),
        (("--roles", "user=1"), "--roles: takes a finite weight for prompt, response"),
        (("--normalization", "nan"), "--normalization: 'nan' is none of"),
        (("--normalizer", "0"), "--normalizer: "),
    ],
)
def test_a_loss_that_cannot_be_is_refused_by_its_flag(words: tuple[str, ...], sentence: str) -> None:
    done = run(*DEMO, *words)
    assert done.exit_code == 2 and sentence in done.stderr


def test_dry_run_shows_the_tasks_and_refuses_a_strategy_there_is_none_of(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("tasks: dwa(temperature=2)\n")
    done = run(*SHORT, "-c", tmp_path / "config.yaml", "--dry-run")
    assert done.exit_code == 0 and "tasks: dwa(temperature=2)" in done.stdout and "task copy" in done.stdout
    refused = run(*SHORT, "--tasks", "dwaa", "--dry-run")
    assert refused.exit_code == 2 and "did you mean 'dwa'?" in refused.stderr


def test_an_unknown_language_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFTLOSS_LANG", "fr")
    done = run(*SHORT, "-o", tmp_path / "out")
    assert done.exit_code == 2 and "SFTLOSS_LANG is 'fr'" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_run_told_to_stop_saves_a_checkpoint_and_exits_by_its_code(number: int, code: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [*DEMO, "--max-steps", "2000", "--logging-every", "1", "-o", out]
    command = [sys.executable, "-c", "from sftloss.cli import main; main()", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        assert any(line.startswith("step 2/") for line in iter(process.stderr.readline, "")), "it ended before"
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, told
    (saved,) = (out / "checkpoints").glob("checkpoint-*")
    stop = told.splitlines()[-1]
    assert stop == f"stopped after step {saved.name[11:]}; {saved} is complete, --resume continues from it."
    assert not (out / "model").exists()


def test_rows_behind_a_spike_are_named_unasked_and_in_the_history(tmp_path: Path) -> None:
    data = write_planted(tmp_path / "rows.jsonl")
    flags = [word for name, value in PLANTED.items() for word in (f"--{name.replace('_', '-')}", value)]
    words = ("train", "-m", "demo", "-d", data, "--device", "cpu", "--max-steps", 30, *flags)
    done = run(*words, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    (told,) = (line for line in done.stderr.splitlines() if f"is at {data}:41 (100 % of it" in line)
    assert told.startswith("sftloss: a spike: ")
    lines = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    noted = {line["step"]: line["spike"] for line in lines if "spike" in line}
    assert noted[28].startswith(f"{data}:41 (100 % of it") and noted[28] in told
    assert len(noted) == next(line["spikes"] for line in lines if "spikes" in line)
    quiet = run(*words, "-q", "-o", tmp_path / "quiet")
    assert quiet.exit_code == 0 and quiet.stderr == ""


def test_a_loss_that_is_not_finite_is_one_sentence_that_names_us_once(tmp_path: Path) -> None:
    high = ("--learning-rate", 1e30, "--max-grad-norm", 1e30)
    done = run(*DEMO, "--max-examples", 40, *high, "-q", "-o", tmp_path / "out")
    assert done.exit_code == 3, done.output
    assert done.stderr.startswith("sftloss: the loss is not finite at ") and done.stderr.count("sftloss: ") == 1


def test_train_refuses_a_folder_with_a_run(tmp_path: Path) -> None:
    assert run(*SHORT, "-q", "-o", tmp_path / "out").exit_code == 0
    again = run(*SHORT, "-o", tmp_path / "out")
    assert again.exit_code == 2 and "already has model" in again.stderr


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("model: demo\ndata: demo\nlearning-rate: 1e-3\nbatch-size: 4\nroles: {prompt: 0.1, response: 1}")
    done = run("train", "-c", config, "--batch-size", 2, "--print-config")
    assert "learning-rate: 0.001" in done.stdout and "batch-size: 2" in done.stdout and "grad-accum: 1" in done.stdout
    assert run("train", "-c", config, "--max-steps", 1, "--max-examples", 8, "-q", "--device", "cpu", "-o",
               tmp_path / "out").exit_code == 0  # fmt: skip
    assert json.loads((tmp_path / "out" / "train.json").read_text())["recipe"]["roles"]["prompt"] == 0.1


def test_dry_run_says_what_would_be_trained_and_writes_nothing(tmp_path: Path) -> None:
    done = run(*DEMO, "--dry-run", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "learning-rate:" in done.stdout and "[trained]" in done.stdout and "logits" in done.stdout
    told = json.loads(run(*DEMO, "--dry-run", "--json", "-").stdout)
    assert told["counts"]["steps"] == 75 and told["counts"]["examples"] == 600
    assert told["memory"]["optimizer"] == 2 * told["memory"]["gradients"] == 2 * told["memory"]["parameters"]
    assert not (tmp_path / "out").exists()


def test_dry_run_on_a_terminal_colours_what_is_trained_unlike_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    data = write_rows(tmp_path / "rows.jsonl", [{"prompt": "say it", "completion": "plum"}])
    done = run("train", "-m", "demo", "-d", data, "--device", "cpu", "--dry-run")
    assert done.exit_code == 0, done.output
    parts = re.findall(r"\x1b\[([\d;]+)m([^\x1b]*)\x1b\[0m", done.stdout)
    (asked,) = {colour for colour, text in parts if "say" in text}
    (answered,) = {colour for colour, text in parts if "plum" in text}
    assert answered == "1;32" and asked == "2", "bold green, dim"
    assert "[trained]" not in done.stdout


def test_train_trains_adapters(tmp_path: Path) -> None:
    words = ("train", "--model", "demo", "--data", write_rows(tmp_path / "rows.jsonl"), "--device", "cpu")
    done = run(*words, "--lora-r", 4, "--max-steps", 2, "-q", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "model" / "adapter_model.safetensors").is_file()
    told = json.loads((tmp_path / "out" / "train.json").read_text())["model"]
    assert 0 < told["trained_parameters"] < told["parameters"]


def test_adapters_on_the_head_come_by_a_file(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("model: demo\ndata: demo\nlora-r: 2\nlora-targets: [q_proj, lm_head]\nlearning-rate: 1e-3")
    done = run("train", "-c", config, "--max-steps", 2, "--max-examples", 8, "-q", "--device", "cpu", "-o",
               tmp_path / "out")  # fmt: skip
    assert done.exit_code == 0, done.output
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "out" / "model" / "adapter_model.safetensors")
    (learned,) = (value for name, value in saved.items() if "lm_head.lora_B" in name)
    assert learned.abs().sum() > 0  # it starts at zero


def test_a_tracker_without_its_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sftloss.finetune.setup.find_spec", lambda name: None if name == "wandb" else find_spec(name))
    done = run(*SHORT, "--report-to", "wandb", "-o", tmp_path / "out")
    assert done.exit_code == 2 and "pip install wandb" in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_unknown_loss_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    done = run("train", "-m", "no/such", "-d", "demo", "--loss", "fokal", "-o", tmp_path / "out")
    assert done.exit_code == 2 and "focal" in done.stderr


def test_preset_sets_roles_and_normalizer_and_is_refused_beside_them() -> None:
    values = {one.name: one.default for one in options_of(TrainOptions)}
    recipe = recipe_fields({**values, "preset": "wit"})
    assert recipe["roles"] == {"prompt": 0.2, "response": 0.8} and recipe["normalizer"] == "tokens"
    assert recipe_fields({**values, "preset": "think=0.3"})["think_weight"] == 0.3
    with pytest.raises(ConfigError, match="sets .*roles.*, which is given too"):
        recipe_fields({**values, "preset": "wit", "roles": {"response": "1"}})
    with pytest.raises(ConfigError, match="there is none called 'witt'"):
        recipe_fields({**values, "preset": "witt"})


def test_flags_and_recipe_have_the_same_defaults() -> None:
    flags = {one.name: one.default for one in options_of(TrainOptions)}
    recipe = {f.name: f.default if f.default is not MISSING else f.default_factory() for f in fields(Recipe)}
    shared = (flags.keys() & recipe.keys()) - {"columns", "roles", "output"}
    assert len(shared) > 35
    assert {name: flags[name] for name in shared} == {name: recipe[name] for name in shared}
