"""Tables as they are shown, each interval beside its number; and the numbers of a chart as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from sftloss.document import Cell, Chart, Column, ColumnKind, Table
from sftloss.report.format import NUMERIC, format_cell
from sftloss.report.text import clean


@dataclass(frozen=True)
class ShownCell:
    """One cell: its text, and its interval as text (empty where it has none)."""

    text: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".strip()


@dataclass(frozen=True)
class ShownTable:
    """Labels, whether a column holds numbers, and rows of cells."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[ShownCell, ...], ...]

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


def show(table: Table, limit: int, language: str = "en") -> ShownTable:
    """The first `limit` rows of `table` as texts."""
    groups = list(_groups(table.columns))

    def cell(row: tuple[Cell, ...], index: int, has_bounds: bool) -> ShownCell:
        kind = table.columns[index].kind
        texts = [format_cell(value, kind, language) for value in row[index : index + 3]] or [""]
        return ShownCell(texts[0], f"[{texts[1]}, {texts[2]}]" if has_bounds and all(texts[1:]) and texts[2:] else "")

    rows = tuple(tuple(cell(row, index, has_bounds) for index, has_bounds in groups) for row in table.rows[:limit])
    return ShownTable(tuple(table.columns[index] for index, _ in groups), rows)


def positions(chart: Chart) -> list[float | str]:
    """Every x of the chart once, in the order of first appearance (numbers sorted)."""
    seen = dict.fromkeys(x for series in chart.series for x in series.x)
    if all(isinstance(x, (int, float)) for x in seen):
        return sorted(seen)
    return list(seen)


def chart_table(chart: Chart) -> Table:
    """One row per x, one column per series, and two more where the series has an interval."""
    kind = cast(ColumnKind, chart.format_y if chart.format_y in NUMERIC else "number")
    rows: dict[float | str, list[Cell]] = {x: [x] for x in positions(chart)}
    x_kind = cast(ColumnKind, chart.format_x if chart.format_x in NUMERIC else "text")
    columns = [Column("x", chart.x_label, "text" if any(isinstance(x, str) for x in rows) else x_kind)]
    for index, series in enumerate(chart.series):
        columns.append(Column(f"y{index}", series.label, kind))
        parts: list[tuple[float | None, ...]] = [series.y]
        if series.low is not None and series.high is not None:
            columns += [Column(f"low{index}", "low", kind), Column(f"high{index}", "high", kind)]
            parts += [series.low, series.high]
        at = {x: i for i, x in enumerate(series.x)}
        for x, row in rows.items():
            row.extend(part[at[x]] if x in at and at[x] < len(part) else None for part in parts)
    return Table(f"{chart.id}-data", chart.title, tuple(columns), tuple(tuple(row) for row in rows.values()))
