"""What the README says is so."""

from __future__ import annotations

import ast
import re

import pytest
from tests.paths import ROOT
from transformers import Trainer
from typer.main import get_command

import sftloss
from sftloss.cli.app import app

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh.md").read_text(encoding="utf-8")
VERBS = get_command(app).commands
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_its_python_runs_and_prints(code, capsys):
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_its_python_examples_are_short():
    assert len(BLOCKS) == 2 and all(len(block.splitlines()) <= 9 for block in BLOCKS)


def test_it_is_short():
    assert len(TEXT.splitlines()) < 150


def test_the_chinese_one_is_linked_and_has_the_same_examples_and_figures():
    assert "(README.zh.md)" in TEXT[:200] and "(README.md)" in CHINESE[:200]
    english, chinese = (re.findall(r"```(?:diff|python|text)\n.*?```", text, re.S) for text in (TEXT, CHINESE))
    assert chinese == english and len(english) >= 4


def test_the_lines_it_adds_to_a_program_make_trainers():
    """TRL's class is stood in for by the Trainer here; docs/how-to/trl.md runs it."""
    (diff,) = re.findall(r"```diff\n(.*?)```", TEXT, re.S)
    before, after = ([line[2:] for line in diff.splitlines() if line[0] == sign] for sign in "-+")
    for old, new in zip(before, after, strict=True):
        rest = re.search(r"Trainer(\(model=.*)", old)[1]
        assert new.endswith(rest)  # the arguments stay
        wrapped = new.removeprefix("trainer = ").removesuffix(rest)
        assert issubclass(
            eval(
                wrapped,
                {"with_loss": sftloss.with_loss, "Loss": sftloss.Loss, "Trainer": Trainer, "SFTTrainer": Trainer},
            ),
            Trainer,
        )


@pytest.mark.parametrize("text", [TEXT, CHINESE], ids=["English", "Chinese"])
def test_its_pictures_and_pages_are_there(text):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_its_first_example_prints_what_it_says(capsys):
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    (told,) = re.findall(r"```text\n(.*?)```", TEXT, re.S)
    assert capsys.readouterr().out.strip() == told.strip()


def test_its_tree_names_what_is_there():
    tree = TEXT.split("```\nsrc/sftloss/\n")[1].split("```")[0]
    named = {name for names in re.findall(r"^  ([^\s,]+(?:, [^\s,]+)*) ", tree, re.M) for name in names.split(", ")}
    source = ROOT / "src" / "sftloss"
    rooms = {f"{path.parent.name}/" for path in source.glob("*/__init__.py")}
    assert named == rooms | {path.name for path in source.glob("*.py") if path.name != "__init__.py"}


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Each `sftloss VERB` in the text with the flags named after it."""
    found = re.findall(r"sftloss (\w+)((?: +(?:--?[\w-]+|\"[^\"]*\"|[\w./-]+))*)", text)
    return [(verb, re.findall(r"(?<!\S)(--[\w-]+)", rest)) for verb, rest in found]


def test_its_commands_are_commands():
    told = [
        (verb, flags)
        for line in re.findall(r"^sftloss .*|`sftloss [^`]*`", TEXT, re.M)
        for verb, flags in commands(line.strip("`"))
    ]
    assert len(told) >= 3
    for verb, flags in told:
        assert verb in VERBS, verb
        known = {name for option in VERBS[verb].params for name in option.opts} | {"--help"}
        assert set(flags) <= known


def test_commands_in_findings_are_commands():
    """A report must not send its reader to a command that is not there."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src" / "sftloss").rglob("*.py")]
    calls = [
        node
        for text in sources
        if "Command(" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Command" and node.args
        if isinstance(node.args[0], ast.Constant)
    ]
    assert len(calls) >= 4
    for call in calls:
        verb = call.args[0].value
        assert verb in VERBS, verb
        known = {name for option in VERBS[verb].params for name in option.opts}
        named = [value.value for value in ast.walk(call) if isinstance(value, ast.Constant)]
        assert {text for text in named if isinstance(text, str) and re.fullmatch(r"--[\w-]+", text)} <= known, verb


def test_its_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for name in ("README.md", "CONTRIBUTING.md"):
        assert set(re.findall(r"^make ([\w-]+)", (ROOT / name).read_text(encoding="utf-8"), re.M)) <= targets
