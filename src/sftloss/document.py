"""The contents of a report as plain values: findings first, then sections of charts and tables.

`analysis` and `experiments` fill these records; `report` only shows them (terminal, JSON, Markdown, HTML) and computes
nothing. Numbers stay numbers; every text may contain the user's data and is escaped where it is shown.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

Severity = Literal["error", "warning", "info"]
ColumnKind = Literal["text", "integer", "number", "index", "percent", "ratio", "nats"]
LANGUAGES = ("en", "zh")
"""Of the texts of a document."""
Flags = tuple[tuple[str, str], ...]
"""Flags and their values, in order; a flag may be repeated, and one without a value has an empty one."""


@dataclass(frozen=True)
class Command:
    """A command line of ours, as a value: until a run's own flags are filled in, MODEL and DATA stand for them.

    Attributes:
        verb: ``inspect``, ``analyze``, ...
        flags: What it asks for, beside its input.
        lead: Words before it, as a clause: "check the mask".
        inputs: The flags that name what is read.

    Example:
        >>> str(Command("analyze", (("--loss", "focal(gamma=2)"),), "compare two losses"))
        "compare two losses: sftloss analyze --model MODEL --data DATA --loss 'focal(gamma=2)'"
    """

    verb: str
    flags: Flags = ()
    lead: str = ""
    inputs: Flags = (("--model", "MODEL"), ("--data", "DATA"))

    def on(self, inputs: Flags, extra: Flags = ()) -> Command:
        """The same command with a run's own input, and with flags after its own."""
        return replace(self, inputs=inputs, flags=(*self.flags, *extra))

    def with_flag(self, flag: str, value: str) -> Command:
        """The same command with one flag set, whatever it was."""
        kept = tuple(pair for pair in self.flags if pair[0] != flag)
        return replace(self, flags=(*kept, (flag, value)))

    def __str__(self) -> str:
        words = [word for pair in (*self.inputs, *self.flags) for word in pair if word]
        line = shlex.join(["sftloss", self.verb, *words])
        colon = ": " if self.lead.isascii() else "："  # a lead that is translated
        return f"{self.lead}{colon}{line}" if self.lead else line


_COMPARE = Command("compare")
Cure = str | Command
Cell = str | int | float | bool | Command | None


@dataclass(frozen=True)
class Interval:
    """A confidence interval; `level` is its coverage."""

    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True)
class Finding:
    """One thing the reader should know: a stable id, one sentence, one number, why it matters, what to do.

    Attributes:
        id: Stable, suppressible, e.g. ``NORM002``.
        sentence: What was seen, with its number.
        value, interval, unit: The number itself; None where the finding is a yes or no.
        why: Why it matters, one or two sentences.
        fix: What to do: words, a setting or a command. Empty only for `info`.
        rows: Origins of example rows ("file:line"), at most ten.
    """

    id: str
    severity: Severity
    sentence: str
    why: str
    fix: Cure = ""
    value: float | None = None
    interval: Interval | None = None
    unit: str = ""
    rows: tuple[str, ...] = ()


def by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The most severe first, then by id: the order of every page. Findings of one id keep their order."""
    order = get_args(Severity)
    return tuple(sorted(findings, key=lambda finding: (order.index(finding.severity), finding.id)))


@dataclass(frozen=True)
class Column:
    """`kind`: text, integer, number (3 significant digits), percent (a share in 0..1), ratio (x times), nats, or index:
    a number of order one such as a correlation, with two decimals.
    """

    key: str
    label: str
    kind: ColumnKind = "text"
    help: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells in the order of `columns`; None shows as an empty cell ("undefined", never 0)."""

    id: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Series:
    """One line or set of bars. `low` and `high` draw the interval; None in `y` is a gap."""

    label: str
    x: tuple[float | str, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] | None = None
    high: tuple[float | None, ...] | None = None
    is_reference: bool = False  # an anchor (diagonal, equality line), drawn thin and grey
    is_faint: bool = False  # there, but nothing to rest on: points hollow and grey, lines thin, grey and unnamed


@dataclass(frozen=True)
class Chart:
    """One picture. `kind`: line, bar (grouped), point (a forest plot: intervals, one row per x, drawn horizontally).

    `scale_x`/`scale_y`: linear, log, category. `format_x`/`format_y`: as Column.kind, for ticks.
    `description` is the text alternative: what the picture shows, with its main numbers. `bounds` is what `low` and
    `high` of its series are.
    """

    id: str
    kind: Literal["line", "bar", "point"]
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    description: str
    scale_x: Literal["linear", "log", "category"] = "linear"
    scale_y: Literal["linear", "log"] = "linear"
    format_x: str = "number"
    format_y: str = "number"
    bounds: str = "interval"


@dataclass(frozen=True)
class TokenStrip:
    """One example token by token, coloured by `values` (0..1 within the strip's own measure)."""

    title: str
    measures: tuple[str, ...]  # e.g. ("loss", "weight", "signal")
    tokens: tuple[str, ...]
    roles: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]  # one tuple a measure, each as long as tokens


@dataclass(frozen=True)
class Section:
    """`lead` says the answer in one or two sentences; `level` names the signal level (S0, S1 or S2)."""

    id: str
    title: str
    lead: str
    level: str = ""
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    strips: tuple[TokenStrip, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """A whole report. `headlines`: the lines a newcomer reads first. `facts`: label and value, shown at the top."""

    title: str
    headlines: tuple[str, ...]
    findings: tuple[Finding, ...]
    sections: tuple[Section, ...]
    facts: tuple[tuple[str, str], ...] = ()
    provenance: tuple[tuple[str, str], ...] = ()  # command, versions, seed: shown at the end
    language: str = field(default="en", kw_only=True)  # of its texts, one of LANGUAGES; codes and keys are in none
    schema_version: str = field(default="1.3", kw_only=True)

    @property
    def answer(self) -> Section | None:
        """The section with the id "answer": its table and its chart stand before everything else."""
        return next((section for section in self.sections if section.id == "answer"), None)

    @property
    def details(self) -> tuple[Section, ...]:
        """The sections after the answer."""
        return tuple(section for section in self.sections if section.id != "answer")


def with_commands(document: Document, fill: Callable[[Command], Command]) -> Document:
    """The document with every command in its findings and tables, and `sftloss compare` in its notes, filled in."""

    def cell(value: Cell) -> Cell:
        return fill(value) if isinstance(value, Command) else value

    def section(one: Section) -> Section:
        tables = tuple(replace(table, rows=tuple(tuple(map(cell, row)) for row in table.rows)) for table in one.tables)
        notes = tuple(note.replace(str(_COMPARE), str(fill(_COMPARE))) for note in one.notes)
        return replace(one, tables=tables, notes=notes)

    findings = tuple(
        replace(finding, fix=fill(finding.fix)) if isinstance(finding.fix, Command) else finding
        for finding in document.findings
    )
    return replace(document, findings=findings, sections=tuple(map(section, document.sections)))
