"""Building blocks of sections: estimates and shares as columns, cells, tables and charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sftloss.document import Cell, Chart, Column, ColumnKind, Interval, Series, Table
from sftloss.numbers import Estimate, Floats, GroupSums, interval
from sftloss.words import number, percent

_END = "end of the 95 % interval"


def cell(value: float | None) -> float | None:
    """A number for a table: undefined is an empty cell."""
    return None if value is None or not math.isfinite(value) else float(value)


def with_interval(estimate: Estimate) -> str:
    """`0.56 [0.50, 0.63]`."""
    if estimate.interval is None:
        return number(estimate.value)
    return f"{number(estimate.value)} [{number(estimate.interval.low)}, {number(estimate.interval.high)}]"


def estimate_columns(
    key: str, label: str, kind: ColumnKind = "number", *, help: str = "", low: str = "low", high: str = "high"
) -> tuple[Column, Column, Column]:
    """The columns of an estimate and of the ends of its interval."""
    ends = (Column(f"{key}_low", low, kind, _END), Column(f"{key}_high", high, kind, _END))
    return (Column(key, label, kind, help), *ends)


def estimate_cells(estimate: Estimate) -> tuple[Cell, Cell, Cell]:
    """The cells for `estimate_columns`."""
    low, high = bounds(estimate.interval)
    return cell(estimate.value), cell(low), cell(high)


def estimate_series(label: str, names: Sequence[str], estimates: Sequence[Estimate]) -> Series:
    """One estimate with its interval a name. Undefined estimates are gaps."""
    values, low, high = zip(*map(estimate_cells, estimates), strict=True) if estimates else ((), (), ())
    return Series(label, tuple(names), values, low, high)


def bounds(of: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if of is None else (of.low, of.high)


@dataclass(frozen=True)
class Shares:
    """Shares of each group, by column, with intervals from the same replicates.

    Attributes:
        labels: Name of each group.
        columns: Name of each column, such as "tokens" or "token mean".
        value: Shape ``(groups, columns)``; NaN where the column sums to zero.
        intervals: As `value`, nested tuples.
        replicates: Shares of every resampled data set, ``(replicates, groups, columns)``.
    """

    labels: tuple[str, ...]
    columns: tuple[str, ...]
    value: Floats
    intervals: tuple[tuple[Interval | None, ...], ...]
    replicates: Floats

    def column(self, name: str) -> Floats:
        return self.value[:, self.columns.index(name)]

    def ratio(self, group: int, top: str, bottom: str) -> Estimate:
        """A group's share of one column over its share of another: 1 is its part."""
        i, j = self.columns.index(top), self.columns.index(bottom)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = self.value[group, i] / self.value[group, j]
            spread = interval(self.replicates[:, group, i] / self.replicates[:, group, j])
        return Estimate(float(value) if np.isfinite(value) else float("nan"), spread)


def shares(sums: GroupSums, labels: list[str], columns: list[str]) -> Shares:
    """Shares of groups that have anything at all; empty groups are left out."""
    value, replicates = sums.shares()
    keep = np.flatnonzero(np.nan_to_num(sums.total[:, 0]) > 0)
    intervals = tuple(tuple(interval(replicates[:, g, c]) for c in range(len(columns))) for g in keep)
    names = tuple(labels[g] for g in keep)
    return Shares(names, tuple(columns), value[keep], intervals, replicates[:, keep])


def share_table(of: Shares, *, id: str, title: str, first: str, signals: tuple[str, ...], note: str = "") -> Table:
    """One row a group: its shares, and for the columns in `signals` the interval too."""
    heads: list[Column] = [Column("group", first)]
    picks: list[tuple[int, str]] = []  # column, and "value", "low" or "high"
    for index, name in enumerate(of.columns):
        heads.append(Column(_key(name), f"signal, {name}" if name in signals else name, "percent"))
        picks.append((index, "value"))
        if name in signals:
            for end in ("low", "high"):
                heads.append(Column(f"{_key(name)}_{end}", f"{name}, {end}", "percent", "end of the 95 % interval"))
                picks.append((index, end))
    rows = []
    for group, label in enumerate(of.labels):
        row: list[Cell] = [label]
        for index, end in picks:
            spread = of.intervals[group][index]
            shown = of.value[group, index] if end == "value" else getattr(spread, end, None)
            row.append(cell(shown))
        rows.append(tuple(row))
    return Table(id, title, tuple(heads), tuple(rows), note)


def _key(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name.lower()).strip("_")


def largest(of: Shares) -> str:
    """What a share chart shows, for who cannot see it: the largest group of each column."""
    said = []
    for index, name in enumerate(of.columns if of.labels else ()):
        if np.isfinite(of.value[:, index]).any():
            group = int(np.nanargmax(of.value[:, index]))
            said.append(f"{name} {of.labels[group]} ({percent(float(of.value[group, index]))})")
    return f"Largest share: {', '.join(said)}." if said else "No shares."


def share_chart(of: Shares, *, id: str, title: str, x_label: str, description: str) -> Chart:
    """Bars of every column's shares, with intervals."""
    series = []
    for index, name in enumerate(of.columns):
        ends = [bounds(row[index]) for row in of.intervals]
        y = tuple(cell(v) for v in of.value[:, index])
        series.append(Series(name, of.labels, y, tuple(e[0] for e in ends), tuple(e[1] for e in ends)))
    bars = Chart(id, "bar", title, x_label, "share", tuple(series), description, scale_x="category")
    return replace(bars, format_x="text", format_y="percent")


def forest(rows: Sequence[tuple[str, Estimate]], *, id: str, title: str, x_label: str, description: str) -> Chart:
    """One estimate with its interval a row."""
    series = estimate_series(x_label, [label for label, _ in rows], [estimate for _, estimate in rows])
    return Chart(id, "point", title, "", x_label, (series,), description, scale_x="category", format_x="text")
