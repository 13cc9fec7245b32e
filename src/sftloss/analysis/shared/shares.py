"""Building blocks of sections: estimates and shares as columns, cells, tables and charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sftloss.document import Cell, Chart, Column, ColumnKind, Interval, Series, Table
from sftloss.numbers import Estimate, Floats, GroupSums
from sftloss.words import index, percent


def cell(value: float | None) -> float | None:
    """A number for a table: undefined is an empty cell."""
    return None if value is None or not math.isfinite(value) else float(value)


def with_interval(estimate: Estimate) -> str:
    """An estimate of order one: `0.56 [0.50, 0.63]`."""
    if estimate.interval is None:
        return index(estimate.value)
    return f"{index(estimate.value)} [{index(estimate.interval.low)}, {index(estimate.interval.high)}]"


def estimate_columns(
    key: str, label: str, kind: ColumnKind = "number", *, help: str = ""
) -> tuple[Column, Column, Column]:
    """The columns of an estimate and of the ends of its interval."""
    low, high = (Column(f"{key}_{end}", f"{label}, {end}", kind, "end of the 95 % interval") for end in ("low", "high"))
    return Column(key, label, kind, help), low, high


def estimate_cells(estimate: Estimate) -> tuple[Cell, Cell, Cell]:
    """The cells for `estimate_columns`; an interval without width, as of a share that is always 1, is left out."""
    low, high = bounds(estimate.interval)
    if low == high:
        low = high = None
    return cell(estimate.value), cell(low), cell(high)


def estimate_series(label: str, names: Sequence[str], estimates: Sequence[Estimate]) -> Series:
    """One estimate with its interval a name. Undefined estimates are gaps."""
    values, low, high = zip(*map(estimate_cells, estimates), strict=True) if estimates else ((), (), ())
    return Series(label, tuple(names), values, low, high)


def bounds(of: Interval | None) -> tuple[float | None, float | None]:
    """The two ends; None where there is no interval."""
    return (None, None) if of is None else (of.low, of.high)


@dataclass(frozen=True)
class Shares:
    """Shares of each group, by column, with intervals from the same replicates.

    Attributes:
        labels: Name of each group.
        columns: Name of each column, such as "tokens" or "token mean".
        estimates: By group, then by column; NaN where the column sums to zero.
        sums: What they are shares of.
    """

    labels: tuple[str, ...]
    columns: tuple[str, ...]
    estimates: tuple[tuple[Estimate, ...], ...]
    sums: GroupSums

    @cached_property
    def value(self) -> Floats:
        """The shares, shape ``(groups, columns)``."""
        values = [[one.value for one in group] for group in self.estimates]
        return np.array(values, dtype=np.float64).reshape(len(self.labels), len(self.columns))

    def column(self, name: str) -> Floats:
        return self.value[:, self.columns.index(name)]

    def share(self, label: str, column: str) -> float:
        """A group's share; 0 where the group is empty."""
        return self.estimate(label, column).value

    def estimate(self, label: str, column: str) -> Estimate:
        """A group's share with its interval; 0 where the group is empty."""
        if label not in self.labels:
            return Estimate(0.0)
        return self.estimates[self.labels.index(label)][self.columns.index(column)]

    def without(self, label: str) -> Shares:
        """The same shares, one group not shown."""
        keep = [at for at, name in enumerate(self.labels) if name != label]
        names, estimates = tuple(self.labels[at] for at in keep), tuple(self.estimates[at] for at in keep)
        return replace(self, labels=names, estimates=estimates)

    def only(self, columns: Sequence[str]) -> Shares:
        """The same shares, with these columns alone."""
        places = [self.columns.index(name) for name in columns]
        estimates = tuple(tuple(group[at] for at in places) for group in self.estimates)
        return replace(self, columns=tuple(columns), estimates=estimates, sums=self.sums.pick(places))

    def ratio(self, group: int, top: str, bottom: str) -> Estimate:
        """A group's share of one column over its share of another: 1 is its part."""
        return self.sums.ratio_of_shares(group, self.columns.index(top), self.columns.index(bottom))


def shares(sums: GroupSums, labels: Sequence[str], columns: Sequence[str]) -> Shares:
    """Shares of groups that have anything at all; empty groups are left out."""
    keep = np.flatnonzero(np.nan_to_num(sums.total[:, 0]) > 0)
    left = sums.keep(keep)
    return Shares(tuple(labels[int(g)] for g in keep), tuple(columns), tuple(map(tuple, left.shares())), left)


def share_table(of: Shares, *, id: str, title: str, first: str, signals: Sequence[str]) -> Table:
    """One row a group: its shares, and for the columns in `signals` the interval too."""
    heads: list[Column] = [Column("group", first)]
    rows: list[list[Cell]] = [[label] for label in of.labels]
    for name in of.columns:
        columns, count = estimate_columns(_key(name), _label(name, signals), "percent"), 3 if name in signals else 1
        heads.extend(columns[:count])
        for row, label in zip(rows, of.labels, strict=True):
            row.extend(estimate_cells(of.estimate(label, name))[:count])
    return Table(id, title, tuple(heads), tuple(map(tuple, rows)))


def _key(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name.lower()).strip("_")


def _label(name: str, signals: Sequence[str]) -> str:
    """A column's name where it stands alone: signals are named by their normalization."""
    return f"signal, {name}" if name in signals else name


def share_chart(
    of: Shares, *, id: str, title: str, x_label: str, signals: Sequence[str], description: str = ""
) -> Chart:
    """Bars of every column's shares, with intervals; described by the largest group of each column."""
    series = (
        estimate_series(_label(name, signals), of.labels, [of.estimate(label, name) for label in of.labels])
        for name in of.columns
    )
    described = description or _largest(of, signals)
    bars = Chart(id, "bar", title, x_label, "share", tuple(series), described, scale_x="category")
    return replace(bars, format_x="text", format_y="percent")


def _largest(of: Shares, signals: Sequence[str]) -> str:
    parts = []
    for name, values in zip(of.columns, of.value.T, strict=True):
        if np.isfinite(values).any():
            group = int(np.nanargmax(values))
            parts.append(f"{_label(name, signals)}: {of.labels[group]} ({percent(float(values[group]))})")
    return f"Largest shares. {'; '.join(parts)}." if parts else "No shares."


def without_empty(table: Table) -> Table:
    """The table without the columns that have no value."""
    keep = [at for at in range(len(table.columns)) if any(row[at] is not None for row in table.rows)]
    rows = tuple(tuple(row[at] for at in keep) for row in table.rows)
    return replace(table, columns=tuple(table.columns[at] for at in keep), rows=rows)


def forest(
    rows: Sequence[tuple[str, Estimate]], *, id: str, title: str, x_label: str, description: str, kind: str = "index"
) -> Chart:
    """One estimate with its interval a row."""
    series = estimate_series(x_label, [label for label, _ in rows], [estimate for _, estimate in rows])
    return Chart(id, "point", title, "", x_label, (series,), description, "category", "linear", "text", kind)
