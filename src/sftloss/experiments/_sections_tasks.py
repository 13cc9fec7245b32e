"""What weighting tasks did: where each weight went during training, and where it ended."""

from __future__ import annotations

from collections.abc import Sequence

from sftloss.analysis.document import Cell, Chart, Column, Section, Series, Table
from sftloss.experiments._findings import Names
from sftloss.experiments._plan import Arm
from sftloss.experiments._verdicts import Results

_ENDS = (
    ("weight", "weight", "number", "Mean over seeds after the last step; weights have mean 1."),
    ("weight_low", "low", "number", "Lowest seed."),
    ("weight_high", "high", "number", "Highest seed."),
    ("effective_share", "effective share", "percent", "Of the weighted tokens of the whole run, at that weight."),
    ("token_share", "share of tokens", "percent", "Of the tokens trained."),
    ("loss", "training loss", "nats", "In the last step it was in."),
    ("slope", "slope", "number", "Change of its log loss a step, over the last 100 it was in."),
)


def task_weights(results: Results, names: Names) -> Section | None:
    """Weights over time and at the end, of the arms that weight tasks."""
    arms = [arm for arm in results.arms if any(point.tasks for r in results.of(arm) for point in r.curve)]
    if not arms:
        return None
    charts = tuple(chart for i, arm in enumerate(arms) if (chart := _chart(results, arm, names[arm], i)) is not None)
    rows = tuple(row for arm in arms for row in _rows(results, arm, names[arm]))
    columns = (Column("arm", "arm"), Column("task", "task"), *(Column(*told) for told in _ENDS))  # type: ignore[arg-type]
    still = len(arms) - len(charts)
    lead = f"Weights moved in {len(charts)} of {len(arms)} arms that weight tasks"
    return Section(
        "task-weights",
        "Task weights",
        f"{lead}; in {still} they stayed within 1% of where they began." if still else f"{lead}.",
        charts=charts,
        tables=(Table("task-weights-end", "Where weights ended", columns, rows),),
        notes=("Lines are means over seeds, bands reach from the lowest to the highest seed.",),
    )


def _tasks(results: Results, arm: Arm) -> list[str]:
    keys = {key for r in results.of(arm) for point in r.curve for key in point.tasks}
    return sorted(key.removeprefix("task_weight/") for key in keys if key.startswith("task_weight/"))


def _values(results: Results, arm: Arm, key: str, step: int) -> list[float]:
    """Of each seed that knows it."""
    points = [p for r in results.of(arm) for p in r.curve if p.step == step]
    return [p.tasks[key] for p in points if key in p.tasks]


def _mean(values: Sequence[float]) -> Cell:
    return sum(values) / len(values) if values else None


def _chart(results: Results, arm: Arm, name: str, number: int) -> Chart | None:
    """One line a task; None where nothing moved."""
    # weights are 1 before a task is seen, so the course begins after the first point
    steps = [p.step for p in results.of(arm)[0].curve][1:]
    series, ends, moved = [], [], False
    for task in _tasks(results, arm):
        columns = [_values(results, arm, f"task_weight/{task}", step) for step in steps]
        means = [sum(column) / len(column) for column in columns]
        moved |= max(map(max, columns)) - min(map(min, columns)) > 0.01
        series.append(
            Series(task, tuple(map(float, steps)), tuple(means), tuple(map(min, columns)), tuple(map(max, columns)))
        )
        ends.append(f"{task} {means[-1]:.2f}")
    if not moved or len(steps) < 2:
        return None
    return Chart(
        f"task-weights-{number}", "line", name, "optimizer step", "weight", tuple(series),
        f"At the end: {', '.join(ends)}.", format_x="integer",
    )  # fmt: skip


def _rows(results: Results, arm: Arm, name: str) -> list[tuple[Cell, ...]]:
    last = results.of(arm)[0].curve[-1].step
    rows: list[tuple[Cell, ...]] = []
    for task in _tasks(results, arm):
        of = {key: _values(results, arm, f"task_{key}/{task}", last) for key, *_ in _ENDS}
        weights = of["weight"]
        ends = (_mean(weights), min(weights, default=None), max(weights, default=None))
        rows.append((name, task, *ends, *(_mean(of[key]) for key, *_ in _ENDS[3:])))
    return rows
