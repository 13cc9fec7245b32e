"""Every code block of a page runs, or is read as far as it can be.

The Python of a page runs from top to bottom in one namespace, in an empty folder. Comments in the page help it:

- ``<!-- run: ... -->`` holds Python that runs at its place and is not shown, such as a model.
- ``<!-- run with A as B -->`` before a block replaces A in it, so that it is quick.
- ``<!-- run by tests/...: reason -->`` before a block names the test that runs it, where a page cannot.

A ``text`` block behind a Python block is what that block prints. Commands are parsed: their verbs, options, scripts and
targets exist.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.paths import ROOT
from typer.main import get_command

from sftloss.cli.app import app
from sftloss.data import FORMATS

DOCS = ROOT / "docs"
# their own tests run these, with more to check
ELSEWHERE = {"chapter.md": "tests/test_chapter.py", "chapter.zh.md": "tests/test_chapter.py"}
ELSEWHERE["inspect.md"] = "tests/pipeline/test_inspect.py"
ELSEWHERE |= {f"migrate/{path.name}": "tests/test_migrate.py" for path in (DOCS / "migrate").glob("*.md")}
TEXTS = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
PIECE = re.compile(
    r"<!-- run: ?(.*?)-->|<!-- run by (tests/[\w/]+\.py): [^>]+ -->\n+```python\n.*?^```$"
    r"|(?:<!-- run with (\S+ as \S+) -->\n+)?^```(\w*)\n(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
VERBS = get_command(app).commands


def pieces(text: str) -> list[tuple[str, str]]:
    """Kind and content of each block of a page, hidden Python among them."""
    found = []
    for hidden, test, other, language, block in PIECE.findall(text):
        block = block.replace(*other.split(" as ")) if other else block
        found.append(("hidden", hidden) if hidden else ("test", test) if test else (language, block))
    return found


WITH_PYTHON = [
    name for name, text in TEXTS.items() if name not in ELSEWHERE and any(kind == "python" for kind, _ in pieces(text))
]


@pytest.fixture
def same_formats() -> Iterator[None]:
    """A format that a page registers is gone after it."""
    formats = dict(FORMATS)
    yield
    FORMATS.clear()
    FORMATS.update(formats)


@pytest.mark.usefixtures("same_formats")
@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the packages below TRL
@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")
@pytest.mark.parametrize("name", WITH_PYTHON)
def test_the_python_of_a_page_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    space: dict[str, Any] = {"__name__": f"page {name}"}
    printed = ""
    for kind, block in pieces(TEXTS[name]):
        if kind in ("python", "hidden"):
            capsys.readouterr()
            exec(compile(block, name, "exec"), space)
            printed = capsys.readouterr().out
        elif kind == "text" and printed:
            assert printed.strip() == block.strip()


def test_tests_that_run_a_block_exist() -> None:
    named = [block for text in TEXTS.values() for kind, block in pieces(text) if kind == "test"] + [*ELSEWHERE.values()]
    assert not [test for test in named if not (ROOT / test).is_file()]


def commands() -> list[tuple[str, str]]:
    """Each line of the shell with its page; lines that end with a backslash go on."""
    found = []
    for name, text in TEXTS.items():
        for kind, block in pieces(text):
            if kind == "bash":
                lines = block.replace("\\\n", " ").splitlines()
                found += [(name, line) for line in lines if line.strip() and not line.startswith("#")]
    return found


@pytest.mark.parametrize(("name", "line"), commands(), ids=lambda value: value[:40])
def test_a_command_can_be_typed(name: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    while "=" in words[0] and not words[0].startswith("-"):  # OMP_NUM_THREADS=1 ...
        words = words[1:]
    if "sftloss" in words and words[0] in ("sftloss", "torchrun", "accelerate"):
        words = words[words.index("sftloss") + 1 :]
        command = VERBS[words[0]]
        if getattr(command, "commands", None) and len(words) > 1:
            command, words = command.commands[words[1]], words[1:]
        known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        assert {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)} <= known | {"--help"}
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    elif words[0] == "python" and words[1] == "-m":
        path = words[2].replace(".", "/")
        assert any((ROOT / root / f"{path}{end}").exists() for root in ("", "src") for end in (".py", "/__main__.py"))
    elif words[0] in ("python", "torchrun", "accelerate", "pytest"):
        scripts = [word for word in words if re.search(r"\.(py|yaml)$", word)]
        assert scripts and all((ROOT / script).exists() for script in scripts)
    else:
        assert words[0] in ("pip",), f"{name}: nothing here checks {line!r}"


def test_the_yaml_of_the_pages_has_known_keys() -> None:
    known = {parameter.name.replace("_", "-") for command in VERBS.values() for parameter in command.params}
    for name, text in TEXTS.items():
        for kind, block in pieces(text):
            if kind == "yaml" and not name.startswith("migrate/"):
                assert set(re.findall(r"^([\w-]+):", block, re.M)) <= known, name
