"""Running the command line in this process: `from tests.cli.tools import run, MODEL`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

import sftloss
from sftloss.cli.app import app

MODEL = str(Path(sftloss.__file__).parent / "data" / "demo_model")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
ROWS = [
    {"messages": [{"role": "user", "content": f"copy: {word}"}, {"role": "assistant", "content": word * times}]}
    for times, word in enumerate(["red", "blue", "fig", "plum", "cat", "dog"], start=1)
]


def run(*words: object) -> Result:
    """The result of `sftloss WORDS`, with stdout and stderr apart; every flag that an error names must exist."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exit_code in (2, 3, 4) and result.stderr.startswith("sftloss: "):
        verb = words[:2] if words[0] == "study" else words[:1]
        given = {str(word) for word in words if str(word).startswith("--")}
        check_flags(result.stderr, flags_of(*map(str, verb)) | given)
    return result


def flags_of(*verb: str) -> set[str]:
    """Every flag in the help of a verb."""
    return set(FLAG.findall(CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200"}).stdout))


def check_flags(sentence: str, flags: set[str]) -> None:
    """Fail where a sentence names a flag that does not exist, or spells an option as Python does."""
    assert set(FLAG.findall(sentence)) <= flags, sentence
    options = {flag[2:].replace("-", "_") for flag in flags}
    plain = re.sub(r"\b(prompt|response|name)=", "", sentence)  # of the example of a pair
    words = re.findall(r"\b\w+(?==)|\b[a-z]+_[a-z_]+\b", plain)
    assert not set(words) & options, sentence


def write_rows(path: Path, rows: list[dict[str, object]] | None = None) -> Path:
    """A JSON lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in (ROWS if rows is None else rows)), encoding="utf-8")
    return path
