"""A table as it is shown: texts instead of numbers, and each interval beside its number instead of in two columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sftloss.document import Cell, Column, Table
from sftloss.report.format import NUMERIC, format_cell
from sftloss.report.text import clean


@dataclass(frozen=True)
class Shown:
    """One cell: its text, and its interval as text (empty where it has none)."""

    text: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".strip()


@dataclass(frozen=True)
class ShownTable:
    """Labels, whether a column holds numbers, and rows of cells."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Shown, ...], ...]

    def label(self, index: int) -> str:
        return clean(self.columns[index].label)

    def is_number(self, index: int) -> bool:
        return self.columns[index].kind in NUMERIC


def _groups(columns: tuple[Column, ...]) -> Iterator[tuple[int, bool]]:
    """Index of each column that stays, and whether the next two are its bounds (keys that end in low and high)."""
    index = 0
    while index < len(columns):
        bounds = [column.key.lower() for column in columns[index + 1 : index + 3]]
        has_bounds = len(bounds) == 2 and _is_bound(bounds[0], "low") and _is_bound(bounds[1], "high")
        has_bounds = has_bounds and columns[index].kind in NUMERIC
        yield index, has_bounds
        index += 3 if has_bounds else 1


def _is_bound(key: str, end: str) -> bool:
    return key.rstrip("0123456789").endswith(end)


def _interval(low: Cell, high: Cell, kind: str) -> str:
    texts = [format_cell(bound, kind) for bound in (low, high)]
    return f"[{texts[0]}, {texts[1]}]" if all(texts) else ""


def _cell(row: tuple[Cell, ...], index: int, kind: str, has_bounds: bool) -> Shown:
    if index >= len(row):
        return Shown("")
    interval = _interval(row[index + 1], row[index + 2], kind) if has_bounds and index + 2 < len(row) else ""
    return Shown(format_cell(row[index], kind), interval)


def show(table: Table, limit: int) -> ShownTable:
    """The first `limit` rows of `table` as texts."""
    groups = list(_groups(table.columns))
    columns = tuple(table.columns[index] for index, _ in groups)
    rows = tuple(
        tuple(_cell(row, index, table.columns[index].kind, has_bounds) for index, has_bounds in groups)
        for row in table.rows[:limit]
    )
    return ShownTable(columns, rows)
