"""Two measured runs on the same rows: differences of loss and signal, paired example by example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sftloss.analysis.shared.shares import cell, estimate_cells, estimate_columns, forest
from sftloss.analysis.shared.words import group_name, inside_sentence
from sftloss.analysis.signal.frames import SignalStudy, SignalTable, open_study
from sftloss.analysis.signal.sections.groups import group_codes
from sftloss.analysis.signal.views import GROUPS, AnalysisOptions, View
from sftloss.document import Cell, Chart, Column, Section, Table
from sftloss.numbers import Codes, Estimate, Floats, GroupSums, studentized
from sftloss.numbers.studentized import LEAST_MEMBERS, few_members
from sftloss.weights import TOKEN_MEAN
from sftloss.words import counted, number, percent


def paired_section(first: SignalTable, second: SignalTable, labels: tuple[str, str]) -> Section | None:
    """The differences of the second run from the first, over the rows that both have measured.

    Rows are the same where their tokens, roles and weights are; both runs count every trained token alike.

    Returns:
        The section, with 95 % intervals from a bootstrap over pairs; None where the runs share no trained row.
    """
    one, other = (open_study(table, AnalysisOptions()) for table in (first, second))
    if not all("digest" in study.base.columns for study in (one, other)):
        return None
    _, at, at_other = np.intersect1d(one.base["digest"], other.base["digest"], return_indices=True)
    both = (one.size[at] > 0) & (other.size[at_other] > 0)
    order = np.argsort(at[both])  # the order of the first run
    at, at_other = at[both][order], at_other[both][order]
    common = [name for name in one.objectives if name in other.objectives]
    if not len(at) or not common:
        return None
    pairs = _Pairs(one, other, at, at_other)
    tables, charts, lead = [], [], ""
    for name in common:
        table, chart, sentence = _losses(pairs, name, labels)
        lead = lead or sentence
        tables.append(table)
        charts.append(chart)
    tables.append(_signals(pairs, labels))
    rows = f"{len(at):,} rows are the same, of {len(one.ids):,} in {labels[0]} and {len(other.ids):,} in {labels[1]}."
    notes = (rows, "Intervals: 95 %, bootstrap over pairs; examples with the same first prompt are drawn together.")
    title = f"{labels[1]} against {labels[0]}, example by example"
    return Section("paired", title, lead, charts=tuple(charts), tables=tuple(tables), notes=notes)


class _Pairs:
    """The rows that two studies share, and the groups that they are in."""

    def __init__(self, one: SignalStudy, other: SignalStudy, at: Codes, at_other: Codes) -> None:
        self.one, self.other, self.at, self.at_other = one, other, at, at_other
        self.groups: list[tuple[str, Codes]] = [("all examples", np.arange(len(at)))]
        for column in GROUPS:
            codes, names = group_codes(one, column) or (np.zeros(0), [])
            for code, label in enumerate(names):
                rows = np.flatnonzero(codes[at] == code) if len(codes) else np.zeros(0, dtype=np.int64)
                if len(rows):
                    self.groups.append((inside_sentence(group_name(column, label)), rows))

    def estimate(self, columns: Floats, rows: Codes, of: Callable[[NDArray[Any]], NDArray[Any]]) -> Estimate:
        """`of` the sums of `columns` over all pairs and over `rows`: of arrays ``(..., 2, columns)``."""
        groups = np.zeros(len(self.at), dtype=np.int64)
        groups[rows] = 1
        options, width = self.one.options, columns.shape[1]
        sums = GroupSums(2, width).add(self.one.units[self.at], columns, groups)
        both = np.concatenate([sums.sums.sum(axis=1), sums.sums[:, 1]], axis=1)[:, None]
        (change,) = studentized(
            both, lambda s: of(s.reshape(*s.shape[:-1], 2, width)), sums.units, replicates=options.replicates,
            seed=options.seed,
        )  # fmt: skip
        members = len(np.unique(self.one.units[self.at][rows]))
        return change if members >= LEAST_MEMBERS else Estimate(change.value, reason=few_members(members), n=change.n)


def _losses(pairs: _Pairs, objective: str, labels: tuple[str, str]) -> tuple[Table, Chart, str]:
    """Mean loss of a trained token by group, and the share of examples whose mean loss is lower."""
    name = f"loss:{objective}"
    loss, size = pairs.one.column(name)[pairs.at], pairs.one.size[pairs.at]
    loss2, size2 = pairs.other.column(name)[pairs.at_other], pairs.other.size[pairs.at_other]
    columns = np.stack([loss, size, loss2, size2], axis=1)
    lower = loss2 / size2 < loss / size
    rows: list[tuple[Cell, ...]] = []
    estimates = []
    for group, at in pairs.groups:
        change = pairs.estimate(columns, at, lambda s: s[..., 1, 2] / s[..., 1, 3] - s[..., 1, 0] / s[..., 1, 1])
        estimates.append((group, change))
        means = (loss[at].sum() / size[at].sum(), loss2[at].sum() / size2[at].sum())
        rows.append((group, len(at), *map(cell, means), *estimate_cells(change), float(lower[at].mean())))
    heads = (
        Column("group", "rows"),
        Column("count", "number", "integer"),
        Column("first", f"mean loss, {labels[0]}", "nats"),
        Column("second", f"mean loss, {labels[1]}", "nats"),
        *estimate_columns("difference", "difference", "nats"),
        Column("lower", "examples with a lower loss", "percent"),
    )
    change = estimates[0][1]
    direction, amount = "lower" if change.value < 0 else "higher", number(abs(change.value))
    differs = f"{amount} nats {direction} in {labels[1]} than in {labels[0]}{_ends(change)}"
    if amount == "0":
        differs = f"the same in {labels[1]} as in {labels[0]}"
    share = percent(float(lower.mean()))
    sentence = f"The mean {objective} of a trained token is {differs}. It is lower in {share} of the examples."
    x_label = "difference of the mean loss in nats; below 0 the second run is lower"
    title = f"Difference of {objective}"
    chart = forest(estimates, id=f"paired-{objective}", title=title, x_label=x_label, description=sentence, kind="nats")
    return Table(f"paired-{objective}", title, heads, tuple(rows)), chart, sentence


def _ends(change: Estimate) -> str:
    if change.interval is None or change.value == 0:
        return ""
    ends = sorted((abs(change.interval.low), abs(change.interval.high)))
    if change.interval.low < 0 < change.interval.high:
        return ", which may be chance: the 95 % interval of the difference holds 0"
    return f" (95 % interval {number(ends[0])} to {number(ends[1])})"


def _signals(pairs: _Pairs, labels: tuple[str, str]) -> Table:
    """Share of the S1 signal by group under the first loss of each run."""
    columns = np.stack(
        [
            study.signal(View(study.objective, TOKEN_MEAN), "S1")[at]
            for study, at in ((pairs.one, pairs.at), (pairs.other, pairs.at_other))
        ],
        axis=1,
    )
    rows: list[tuple[Cell, ...]] = []
    for group, at in pairs.groups[1:]:
        parts = columns[at].sum(axis=0) / columns.sum(axis=0)
        change = pairs.estimate(columns, at, lambda s: s[..., 1, 1] / s[..., 0, 1] - s[..., 1, 0] / s[..., 0, 0])
        rows.append((group, *map(cell, parts), *estimate_cells(change)))
    heads = (
        Column("group", "rows"),
        Column("first", f"signal, {labels[0]} ({pairs.one.objective})", "percent"),
        Column("second", f"signal, {labels[1]} ({pairs.other.objective})", "percent"),
        *estimate_columns("difference", "difference", "percent"),
    )
    note = "" if rows else f"The rows are one group: {counted(len(pairs.at), 'example')} without tasks or languages."
    return Table("paired-signal", "Difference of the share of signal (S1)", heads, tuple(rows), note)
