"""Results to stdout, progress and notes to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sftloss.cli._exit import FINDINGS
from sftloss.cli._options import Manner

if TYPE_CHECKING:
    from sftloss.report import Report

Progress = Callable[[int, int | None], None]
_ORDER = ("info", "warning", "error")


def note(text: str, manner: Manner) -> None:
    """One line for a person, on stderr."""
    if not manner.quiet:
        typer.echo(text, err=True)


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
