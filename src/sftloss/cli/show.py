"""Results to stdout, progress and notes to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sftloss.cli.exit import FINDINGS
from sftloss.cli.options.options import Manner
from sftloss.errors import ConfigError

if TYPE_CHECKING:
    from sftloss.report import Report

Progress = Callable[[int, int | None], None]
_ORDER = ("info", "warning", "error")


def note(text: str, manner: Manner) -> None:
    """One line for a person, on stderr."""
    if not manner.quiet:
        typer.echo(text, err=True)


def check_targets(*paths: str | None, replace: bool) -> None:
    """Refuse, before anything is computed, what could not be written after it.

    Raises:
        ConfigError: If a file is there and not to be replaced, its folder is missing or not writable, or the name is
            a folder's or a device's: files are written beside their place and renamed onto it, which would replace
            the device.
    """
    for path in map(Path, filter(lambda p: p not in (None, "-"), paths)):  # type: ignore[arg-type]
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} is no file; give a file's name, or --json - for standard output.")
        if path.exists() and not replace:
            raise ConfigError(f"{path} is already there; choose another name, or say --overwrite.")
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise ConfigError(f"{path}: the folder {path.parent} is missing or cannot be written.")


def show(report: Report, *, json: str | None = None, markdown: str | None = None) -> None:
    """The report in the form asked for. With ``json == "-"`` stdout is JSON and nothing else."""
    text = report.to_json(None if json in (None, "-") else Path(json))
    if markdown is not None:
        report.to_markdown(Path(markdown))
    if json == "-":
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        return
    from rich.console import Console

    from sftloss.report import render_terminal

    render_terminal(report.document, Console(soft_wrap=False, highlight=False))


def verdict(report: Report, fail_on: str) -> int:
    """The exit code: 1 where a finding is at least as severe as `fail_on`, else 0."""
    if fail_on == "never":
        return 0
    worst = max((_ORDER.index(finding.severity) for finding in report.document.findings), default=-1)
    return FINDINGS if worst >= _ORDER.index(fail_on) else 0


def hush_bars() -> None:
    """No bars of other libraries: theirs cannot be told that stderr is a file."""
    from transformers.utils import logging

    logging.disable_progress_bar()


@contextmanager
def progress(label: str, manner: Manner) -> Iterator[Progress]:
    """A bar on stderr; nothing where stderr is no terminal or the user asked for quiet."""
    hush_bars()
    if manner.quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
