"""The numbers of a chart as a table, for readers who do not see the picture."""

from __future__ import annotations

from typing import Literal, cast

from sftloss.document import Cell, Chart, Column, Series, Table

_KINDS = ("integer", "number", "percent", "ratio", "nats")
Kind = Literal["text", "integer", "number", "percent", "ratio", "nats"]


def positions(chart: Chart) -> list[float | str]:
    """Every x of the chart once, in the order of first appearance (numbers sorted)."""
    seen = dict.fromkeys(x for series in chart.series for x in series.x)
    if all(isinstance(x, (int, float)) for x in seen):
        return sorted(seen)
    return list(seen)


def chart_table(chart: Chart) -> Table:
    """One row per x, one column per series, and two more where the series has an interval."""
    kind = cast(Kind, chart.format_y if chart.format_y in _KINDS else "number")
    rows: dict[float | str, list[Cell]] = {x: [x] for x in positions(chart)}
    x_kind = cast(Kind, chart.format_x if chart.format_x in _KINDS else "text")
    columns = [Column("x", chart.x_label, "text" if any(isinstance(x, str) for x in rows) else x_kind)]
    for index, series in enumerate(chart.series):
        columns.append(Column(f"y{index}", series.label, kind))
        parts: list[tuple[float | None, ...]] = [series.y]
        if series.low is not None and series.high is not None:
            columns += [Column(f"low{index}", "low", kind), Column(f"high{index}", "high", kind)]
            parts += [series.low, series.high]
        _fill(rows, series, parts)
    return Table(f"{chart.id}-data", chart.title, tuple(columns), tuple(tuple(row) for row in rows.values()))


def _fill(rows: dict[float | str, list[Cell]], series: Series, parts: list[tuple[float | None, ...]]) -> None:
    at = {x: i for i, x in enumerate(series.x)}
    for x, row in rows.items():
        index = at.get(x)
        row.extend(part[index] if index is not None and index < len(part) else None for part in parts)
