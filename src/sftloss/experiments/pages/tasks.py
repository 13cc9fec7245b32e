"""Sections on task weights: the weights over time and at the end, and conflicts between the tasks' gradients."""

from __future__ import annotations

from collections.abc import Sequence

from sftloss.document import Chart, Column, Section, Series, Table
from sftloss.experiments.experiment import Arm
from sftloss.experiments.pages.tables import (
    SEEDS_BAND,
    NumberKind,
    ShownMetric,
    Triple,
    in_parts,
    seeds_line,
    triple_columns,
)
from sftloss.experiments.verdicts.comparisons import Results
from sftloss.words import number, percent

_LINES = 8  # charts over time with more arms than this cannot be read
_MOVED = 0.01
_OVER_TIME: tuple[tuple[str, str, str, NumberKind], ...] = (
    ("loss", "Training loss", "loss of a step, nats", "nats"),
    ("effective_share", "Effective share", "share of the weighted tokens so far", "percent"),
    ("slope", "Trend", "change of the log loss per step", "number"),
)
_AT_END = (
    ShownMetric("effective_share", "effective share", "percent", "Share of the weighted tokens of the whole training."),
    ShownMetric("token_share", "share of tokens", "percent", "Share of the trained tokens."),
    ShownMetric("loss", "training loss", "nats", "In the last step with rows of the task."),
    ShownMetric("slope", "slope", "number", "Change of the log loss per step, over the last 100 steps with the task."),
)


def task_weights_section(results: Results) -> Section | None:
    """Weights over time and at the end, of the arms that weight tasks."""
    arms = [arm for arm in results.arms if any(point.tasks for r in results.of(arm) for point in r.curve)]
    if not arms:
        return None
    charts = tuple(chart for i, arm in enumerate(arms) if (chart := _weights_chart(results, arm, i)) is not None)
    still = len(arms) - len(charts)
    lead = f"Weights moved in {len(charts)} of {len(arms)} arms that weight tasks"
    return Section(
        "task-weights",
        "Task weights",
        f"{lead}; in {still} they stayed within 1 % of where they began." if still else f"{lead}.",
        charts=(*charts, *_charts_over_time(results, arms)),
        tables=(*in_parts(_weights_table(results, arms)), _last_step_table(results, arms)),
        notes=("Lines are means over seeds.",),
    )


def conflicts_section(results: Results) -> Section | None:
    """Cosines between the tasks' gradients, of the arms that measured them."""
    key = "task_conflict_rate"
    arms = [arm for arm in results.arms if any(key in point.tasks for r in results.of(arm) for point in r.curve)]
    if not arms:
        return None
    last = results.of(arms[0])[0].curve[-1]
    pairs = sorted(name for name in last.tasks if name.startswith("task_cosine/"))
    columns = [Column("arm", "arm"), Column("rate", "conflicts", "percent", "Share of the pairs of tasks in a step.")]
    columns += [Column(pair, pair.removeprefix("task_cosine/"), "number", "Cosine in the last step.") for pair in pairs]
    rows = [(results.names[a], *(_mean(_values(results, a, k, last.step)) for k in (key, *pairs))) for a in arms]
    lines = [_line(results, arm, key, results.names[arm]) for arm in arms] if len(arms) <= _LINES else []
    chart = _chart("task-conflicts-rate", "Share of conflicts so far", "share of pairs", "percent", lines)
    rates = sorted(row[1] for row in rows if isinstance(row[1], float))
    share = " to ".join(dict.fromkeys((percent(rates[0]), percent(rates[-1]))))
    return Section(
        "task-conflicts",
        "Conflicts of gradients",
        f"Gradients of two tasks pointed against each other in {share} of the pairs.",
        charts=() if chart is None else (chart,),
        tables=in_parts(Table("task-conflicts-end", "At the end", tuple(columns), tuple(rows))),
        notes=("Means over seeds. Weights do not change the sign of a cosine, but they change what is trained.",),
    )


def _weights_chart(results: Results, arm: Arm, index: int) -> Chart | None:
    """The weights of one arm, one line per task; None where none moved."""
    lines = [_line(results, arm, f"task_weight/{task}", task) for task in _tasks(results, [arm])]
    ranges = [[v for v in (*line.y, *(line.low or ()), *(line.high or ())) if v is not None] for line in lines if line]
    if not any(len(values) > 1 and max(values) - min(values) > _MOVED for values in ranges):
        return None
    return _chart(f"task-weights-{index}", results.names[arm], "weight", "number", lines)


def _charts_over_time(results: Results, arms: Sequence[Arm]) -> list[Chart]:
    """Loss, shares and trend of each task over time, one line per arm; empty where there are too many arms."""
    charts = []
    for task in _tasks(results, arms) if len(arms) <= _LINES else []:
        for key, title, label, kind in _OVER_TIME:
            lines = [_line(results, arm, f"task_{key}/{task}", results.names[arm]) for arm in arms]
            if key == "effective_share":  # the same rows in the same order for every arm
                lines.append(_line(results, arms[0], f"task_token_share/{task}", "share of tokens"))
            chart = _chart(f"task-{key}-{task}", f"{title} of {task}", label, kind, lines)
            charts += [] if chart is None else [chart]
    return charts


def _chart(id: str, title: str, label: str, kind: NumberKind, lines: Sequence[Series | None]) -> Chart | None:
    series = tuple(line for line in lines if line is not None)
    if not series:
        return None
    ends = ", ".join(f"{line.label} {number(line.y[-1] or 0.0)}" for line in series)
    return Chart(id, "line", title, "optimizer step", label, series, f"At the end: {ends}.", format_x="integer",
                 format_y=kind, bounds=SEEDS_BAND)  # fmt: skip


def _line(results: Results, arm: Arm, key: str, label: str) -> Series | None:
    """The value over the seeds that have it, without the start; None where no seed has it."""
    columns = {p.step: _values(results, arm, key, p.step) for p in results.of(arm)[0].curve[1:]}
    return seeds_line(label, {step: values for step, values in columns.items() if values})


def _weights_table(results: Results, arms: Sequence[Arm]) -> Table:
    """The last weight of each task, one row per arm."""
    tasks = _tasks(results, arms)
    rows = tuple(
        (results.names[arm], *(cell for task in tasks for cell in _last(results, arm, f"task_weight/{task}")))
        for arm in arms
    )
    columns = (column for task in tasks for column in triple_columns(task, task))
    return Table("task-weights-by-arm", "Where weights ended", (Column("arm", "arm"), *columns), rows)


def _last_step_table(results: Results, arms: Sequence[Arm]) -> Table:
    """Weight, shares and loss of each arm and task in the last step."""
    rows = tuple(
        (results.names[arm], task, *_last(results, arm, f"task_weight/{task}"),
         *(_last(results, arm, f"task_{one.key}/{task}")[0] for one in _AT_END))
        for arm in arms
        for task in _tasks(results, [arm])
    )  # fmt: skip
    weight = triple_columns("weight", "weight", help="Mean over seeds after the last step; weights have mean 1.")
    columns = (Column("arm", "arm"), Column("task", "task"), *weight, *(Column(*one) for one in _AT_END))
    return Table("task-weights-end", "The last step", columns, rows)


def _tasks(results: Results, arms: Sequence[Arm]) -> list[str]:
    keys = {key for arm in arms for r in results.of(arm) for point in r.curve for key in point.tasks}
    return sorted(key.removeprefix("task_weight/") for key in keys if key.startswith("task_weight/"))


def _last(results: Results, arm: Arm, key: str) -> Triple:
    """Mean, lowest and highest seed in the last step."""
    values = _values(results, arm, key, results.of(arm)[0].curve[-1].step)
    return _mean(values), min(values, default=None), max(values, default=None)


def _values(results: Results, arm: Arm, key: str, step: int) -> list[float]:
    """The value of each seed that has it."""
    points = [p for r in results.of(arm) for p in r.curve if p.step == step]
    return [p.tasks[key] for p in points if key in p.tasks]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
