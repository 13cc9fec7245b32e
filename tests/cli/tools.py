"""Running the command line in this process: `from tests.cli.tools import run, MODEL`."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

import sftloss
from sftloss.cli.app import app

MODEL = str(Path(sftloss.__file__).parent / "data" / "demo_model")
ROWS = [
    {"messages": [{"role": "user", "content": f"copy: {word}"}, {"role": "assistant", "content": word * times}]}
    for times, word in enumerate(["red", "blue", "fig", "plum", "cat", "dog"], start=1)
]


def run(*words: object) -> Result:
    """The result of `sftloss WORDS`, with stdout and stderr apart."""
    return CliRunner().invoke(app, [str(word) for word in words])


def write_rows(path: Path, rows: list[dict[str, object]] | None = None) -> Path:
    """A JSON lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in (ROWS if rows is None else rows)), encoding="utf-8")
    return path
