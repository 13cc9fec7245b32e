"""Results to stdout, progress and notes to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sftloss.cli.exit import FINDINGS, drop_output
from sftloss.cli.options import ShowOptions, Verbosity
from sftloss.words import duration

if TYPE_CHECKING:
    from rich.console import Console

    from sftloss.document import Document
    from sftloss.report import Report

_WIDEST = 500  # columns; the environment may set COLUMNS to any number, and tables become as wide
_SEVERITIES = ("info", "warning", "error")
_LINE_EVERY = 10.0  # seconds


def print_note(text: str, verbosity: Verbosity) -> None:
    """Lines for a person, on stderr. They may quote a user's data, which is not to steer the terminal."""
    from sftloss.report.text import clean_block

    if not verbosity.quiet:
        typer.echo(clean_block(text), err=True)


def print_text(text: str) -> None:
    """Text on stdout; a reader that has left (head, less) is no error."""
    try:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()


def stdout_console() -> Console:
    """A rich console on stdout; a reader that has left (head, less) is no error."""
    from rich.console import Console

    console = Console(soft_wrap=False, highlight=False)
    console.width = min(console.width, _WIDEST)
    console.on_broken_pipe = drop_output  # type: ignore[method-assign]
    return console


def print_report(
    report: Report, *, json: str | None = None, markdown: str | None = None, brief: Document | None = None
) -> None:
    """The report in the form asked for. With ``json == "-"`` stdout is JSON and nothing else, likewise Markdown.

    A terminal shows `brief` in its place where there is one; with neither form on stdout.
    """
    if json is not None:
        text = report.to_json(None if json == "-" else Path(json))
    if markdown is not None:
        page = report.to_markdown(None if markdown == "-" else Path(markdown))
    if json == "-":
        print_text(text)
    elif markdown == "-":
        print_text(page)
    else:
        from sftloss.report import render_terminal

        render_terminal(brief or report.document, stdout_console())


def in_brief(report: Report) -> Document:
    """The answer and the findings, without sections and without reasons."""
    document = report.document
    findings = tuple(replace(finding, why="") for finding in document.findings)
    return replace(document, findings=findings, sections=tuple(filter(None, (document.answer,))))


def verdict(report: Report, fail_on: str) -> int:
    """The exit code: 1 where a finding is at least as severe as `fail_on`, else 0."""
    if fail_on == "never":
        return 0
    worst = max((_SEVERITIES.index(finding.severity) for finding in report.document.findings), default=-1)
    return FINDINGS if worst >= _SEVERITIES.index(fail_on) else 0


def conclude(report: Report, show: ShowOptions, output: str | None, verbosity: Verbosity) -> int:
    """Print the report in the forms asked for, name its page, and return the exit code."""
    print_report(report, json=show.json, markdown=show.markdown, brief=in_brief(report) if show.brief else None)
    if output is not None:
        print_note(f"wrote {output}/report.html", verbosity)
    return verdict(report, show.fail_on)


def hide_progress_bars() -> None:
    """Turn off the progress bars of other libraries: they draw them into files too."""
    from transformers.utils import logging

    logging.disable_progress_bar()


class ProgressLines:
    """Progress as lines of text, for a stderr that is no terminal: one every ten seconds.

    Args:
        label: What is done, "measuring".
        unit: What is counted, in the plural.
        write: Called with each line.
        clock: Seconds.
    """

    def __init__(
        self, label: str, unit: str, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.label, self.unit, self.write, self.clock = label, unit, write, clock
        self.first: tuple[int, float] | None = None
        self.written = 0.0
        self.last = 0

    def __call__(self, done: int, total: int | None) -> None:
        now = self.clock()
        if self.first is None or done < self.last:  # loading a model is no progress, and a second pass begins anew
            self.first, self.written = (done, now), now
        self.last = done
        if now - self.written < _LINE_EVERY:
            return
        self.written = now
        rate = (done - self.first[0]) / (now - self.first[1])
        text = f"{self.label}: {done:,}{f' of about {total:,}' if total else ''} {self.unit}"
        if rate > 0:
            text += f", {rate:,.0f} {self.unit}/s"
            text += f", about {duration(max(total - done, 0) / rate)} left" if total else ""
        self.write(text)


@contextmanager
def progress_bar(label: str, verbosity: Verbosity, unit: str = "rows") -> Iterator[Callable[[int, int | None], None]]:
    """Progress on stderr: a bar with speed and time left, or lines where stderr is no terminal; nothing if quiet."""
    hide_progress_bars()
    if verbosity.quiet:
        yield lambda done, total: None
        return
    if not sys.stderr.isatty():
        yield ProgressLines(label, unit, lambda text: print_note(text, verbosity))
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None, speed="")

        def update(done: int, total: int | None) -> None:
            speed = bar.tasks[0].speed
            shown = f"{done:,} {unit}" + (f", {speed:,.0f}/s" if speed else "")
            bar.update(task, completed=done, total=total, speed=shown)

        yield update
