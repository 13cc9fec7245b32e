"""Several runs as one report: what differs between them, in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sftloss.document import Cell, Column, Document, Section, Table
from sftloss.errors import DataError
from sftloss.pipeline.folder import TABLE
from sftloss.report.format import format_cell
from sftloss.words import agreeing, counted, listed

if TYPE_CHECKING:
    from sftloss.document import ColumnKind

LISTED_NUMBERS = 12  # numbers of tables that are listed
_COMPARED = ("percent", "nats", "ratio")
_LEFT_OUT = ("answer", "influential", "gradient-factor")  # sentences, other examples in each run, facts of a loss


def side_by_side(documents: Sequence[Document], labels: Sequence[str], folders: Sequence[Path | None]) -> Document:
    """The differences of each later run from the first.

    Where both folders hold a measured table with rows in common, the differences are paired example by example.
    Else they are those of the reports' tables, whose intervals treat the runs as independent.

    Args:
        documents: The reports.
        labels: Their names.
        folders: The folder of each, which may hold its measured table; None where there is only the report.

    Returns:
        One section a later run and kind of difference.
    """
    sections = []
    for at in range(1, len(documents)):
        names = (labels[0], labels[at])
        paired = _paired(folders[0], folders[at], names)
        if paired is not None:
            sections.append(replace(paired, id=f"paired-{at}"))
        sections.append(_from_tables(documents[0], documents[at], names, at, is_paired=paired is not None))
    facts = tuple(("run", label) for label in labels)
    lines = (*_what_was_run(documents, labels), *(one.lead for one in sections[:1]))
    return Document("Differences between runs", lines, (), tuple(sections), facts)


def _what_was_run(documents: Sequence[Document], labels: Sequence[str]) -> Iterator[str]:
    """The facts in which each later run differs from the first."""
    first = dict(documents[0].facts)
    for document, label in zip(documents[1:], labels[1:], strict=True):
        others = dict(document.facts)
        names = [name for name in dict.fromkeys([*first, *others]) if first.get(name) != others.get(name)]
        yield f"{label} differs from {labels[0]} in what was run: {listed(names) or 'nothing that the reports name'}."


def _paired(first: Path | None, second: Path | None, labels: tuple[str, str]) -> Section | None:
    if first is None or second is None or not all((at / TABLE / "manifest.json").is_file() for at in (first, second)):
        return None
    from sftloss.analysis import MeasuredTable, paired_section

    try:
        return paired_section(MeasuredTable(first / TABLE), MeasuredTable(second / TABLE), labels)
    except DataError:  # a table of another version, or one that was never finished
        return None


def _from_tables(one: Document, other: Document, labels: tuple[str, str], at: int, *, is_paired: bool) -> Section:
    """The numbers of tables that both reports have, those that differ most first; shares, ratios and losses each."""
    title, tables = f"{labels[1]} against {labels[0]}, by the tables of their reports", []
    found = list(_differences(one, other))
    names: dict[ColumnKind, str] = {"percent": "Shares", "ratio": "Ratios", "nats": "Losses in nats"}
    for kind, name in names.items():
        rows = sorted((row for of, row in found if of == kind), key=lambda row: -abs(float(str(row[3]))))
        if is_paired:  # the same rows are no independent draws
            rows = [(*row[:4], None, None) for row in rows]
        heads = (
            Column("number", "number"),
            Column("first", labels[0], kind),
            Column("second", labels[1], kind),
            Column("difference", "difference", kind),
            Column("difference_low", "difference, low", kind),
            Column("difference_high", "difference, high", kind),
        )
        notes = ["Differences of shares are in percentage points."] if kind == "percent" else []
        if len(rows) > LISTED_NUMBERS:
            notes.append(f"{len(rows) - LISTED_NUMBERS:,} smaller differences are in the two reports.")
        if rows:
            tables.append(
                Table(
                    f"differences-{kind}",
                    f"{name} that differ most",
                    heads,
                    tuple(rows[:LISTED_NUMBERS]),
                    " ".join(notes),
                )
            )
    lead = "No table differs."
    if found:
        largest, before, after = tables[0].rows[0][:3]
        kind = tables[0].columns[1].kind
        differ = f"{counted(len(found), 'number')} of tables that both reports have {agreeing(len(found), 'differ')}."
        changed = f"{format_cell(after, kind)} instead of {format_cell(before, kind)}"
        lead = f"{differ} The largest difference: {largest}, {changed}."
    independent = "The intervals treat the runs as independent. Where rows are in both they are too wide."
    return Section(f"tables-{at}", title, lead, tables=tuple(tables), notes=() if is_paired else (independent,))


def _differences(one: Document, other: Document) -> Iterator[tuple[ColumnKind, tuple[Cell, ...]]]:
    """Name, both numbers, the difference and its ends, of each cell that is in both and differs."""
    tables = {table.id: table for section in other.sections for table in section.tables}
    for table in (table for section in one.sections for table in section.tables):
        if table.id not in tables or table.id in _LEFT_OUT:
            continue
        against = tables[table.id]
        places = {column.key: i for i, column in enumerate(against.columns)}
        rows = {row[0]: row for row in against.rows}
        for row in table.rows:
            for i, column in enumerate(table.columns):
                if column.kind not in _COMPARED or column.key.endswith(("_low", "_high")):
                    continue
                if row[0] not in rows or column.key not in places:
                    continue
                first, second = row[i], rows[row[0]][places[column.key]]
                if not isinstance(first, float) or not isinstance(second, float) or math.isclose(first, second):
                    continue
                ends = _ends(_around(table, row, column.key), _around(against, rows[row[0]], column.key))
                yield column.kind, (f"{table.title}, {row[0]}: {column.label}", first, second, second - first, *ends)


def _around(table: Table, row: tuple[Cell, ...], key: str) -> tuple[float, float, float] | None:
    """A number with the ends of its interval."""
    at = {column.key: cell for column, cell in zip(table.columns, row, strict=True)}
    values = [at.get(name) for name in (key, f"{key}_low", f"{key}_high")]
    return None if any(not isinstance(v, float) for v in values) else tuple(map(float, map(str, values)))  # type: ignore[return-value]


def _ends(
    first: tuple[float, float, float] | None, second: tuple[float, float, float] | None
) -> tuple[float | None, float | None]:
    """The interval of a difference of two independent estimates from theirs (MOVER: Zou and Donner, 2008)."""
    if first is None or second is None:
        return None, None
    (a, a_low, a_high), (b, b_low, b_high) = first, second
    return b - a - math.hypot(b - b_low, a_high - a), b - a + math.hypot(b_high - b, a - a_low)
