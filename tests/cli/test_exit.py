"""Exit codes and sentences for what fails outside of this package: disks, memory, other ranks, other libraries."""

from __future__ import annotations

import ast
import errno

import pytest
import typer
from tests.cli.tools import MODEL, run, write_rows
from tests.paths import ROOT

from sftloss.cli.exit import exit_codes
from sftloss.cli.verbs.train import TrainOptions
from sftloss.config import Option, options_of
from sftloss.errors import machine_error, quoted

OPTIONS: list[Option] = list(options_of(TrainOptions))


class SafetensorError(Exception):
    """As safetensors raises one."""


class ComputeError(Exception):
    """As polars raises one."""


MACHINE = {
    "disk": OSError(errno.ENOSPC, "No space left on device", "/tmp/x"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded", "/tmp/x"),
    "safetensors": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    "polars": ComputeError("IO error: No space left on device (os error 28)"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 423424 vs 423312"),
    "memory": MemoryError(),
    "allocator": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    "peer": RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:1"),
}


@pytest.mark.parametrize("name", MACHINE)
def test_what_the_machine_does_is_5_with_its_own_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, exit_codes(False, OPTIONS):
        try:
            raise MACHINE[name]
        except Exception as error:
            raise RuntimeError("the trainer failed") from error
    told = capsys.readouterr().err
    assert caught.value.exit_code == 5 and "internal error" not in told and told.count("\n") == 1
    sentence = {"memory": "out of memory", "allocator": "out of memory", "peer": "another rank"}.get(
        name, "No space left"
    )
    assert sentence in told
    assert name != "memory" or "--batch-size" in told


def test_other_errors_are_no_matter_of_the_machine() -> None:
    assert machine_error(ValueError("list index out of range")) is None


def test_an_error_of_another_library_is_quoted_with_its_type_and_place() -> None:
    try:
        _ = [][1]
    except IndexError as error:
        text = quoted(error)
    assert text.startswith("IndexError: list index out of range (in ") and "test_exit.py, line " in text
    assert quoted(ValueError("\n\nThe shape of the weight is wrong.\nMore")) == "The shape of the weight is wrong"
    assert quoted(KeyError("x")) == "KeyError: 'x'"
    assert len(quoted(ValueError("word " * 1000))) <= 300


@pytest.mark.parametrize("verb", ["inspect", "lengths", "analyze", "train"])
def test_every_verb_takes_the_model_of_this_package_by_its_name(verb: str, tmp_path) -> None:
    more = {"analyze": ["-o", tmp_path / "out"], "train": ["--dry-run"]}.get(verb, [])
    result = run(verb, "--model", "demo", "--data", write_rows(tmp_path / "d.jsonl"), *more)
    assert result.exit_code == 0, result.stderr


def test_a_terminal_of_a_million_columns_is_as_wide_as_a_wide_one(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000000")
    result = run("inspect", "--model", MODEL, "--data", write_rows(tmp_path / "d.jsonl"))
    assert result.exit_code == 0 and max(map(len, result.stdout.splitlines())) <= 500
    assert len(run("losses", "focal").stdout) < 10_000
    assert len(run("train", "--help").stdout) < 50_000


def test_no_sentence_is_rewritten_after_it_was_made() -> None:
    """Errors carry option, problem and cure; whoever shows them spells the options. No pattern edits their text."""
    for path in (ROOT / "src" / "sftloss" / "cli").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert "re" not in imported, f"{path} imports re"
    for path in (ROOT / "src" / "sftloss").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("re.sub", "re.subn"):
                assert "str(error)" not in ast.unparse(node), f"{path}:{node.lineno} edits the text of an error"
