"""What weighting tasks did: what each task gained or lost by it, and where the weights went."""

from __future__ import annotations

from collections.abc import Sequence

from sftloss.document import Cell, Chart, Column, Section, Series, Table
from sftloss.experiments.experiment import Arm
from sftloss.experiments.pages.metrics import SEEDS_BAND
from sftloss.experiments.pages.sections import NOTHING, folded, parts
from sftloss.experiments.pages.words import conclusion, counted
from sftloss.experiments.verdicts.findings import Names
from sftloss.experiments.verdicts.verdicts import Comparison, Results

_LINES = 8
_OVER_TIME = (
    ("loss", "Training loss", "loss of a step, nats", "nats"),
    ("effective_share", "Effective share", "share of the weighted tokens so far", "percent"),
    ("slope", "Trend", "change of its log loss a step", "number"),
)
_ENDS = (
    ("weight", "weight", "number", "Mean over seeds after the last step; weights have mean 1."),
    ("weight_low", "low", "number", "Lowest seed."),
    ("weight_high", "high", "number", "Highest seed."),
    ("effective_share", "effective share", "percent", "Of the weighted tokens of the whole trial, at that weight."),
    ("token_share", "share of tokens", "percent", "Of the tokens trained."),
    ("loss", "training loss", "nats", "In the last step it was in."),
    ("slope", "slope", "number", "Change of its log loss a step, over the last 100 it was in."),
)


def by_task(compared: Sequence[Comparison], names: Names) -> Section | None:
    """Every arm against the first, task by task, in one row."""
    measures = tuple(dict.fromkeys(one.measure for one in compared if one.measure.key == "token_nll"))
    if not any(measure.task for measure in measures):
        return None
    rows = []
    for arm in dict.fromkeys(one.arm for one in compared):
        ours = {one.measure: one for one in compared if one.arm == arm}
        told = [
            f"{one.measure.task or 'all'} {'higher' if one.difference.value > 0 else 'lower'}"
            for one in ours.values()
            if one.is_different and one.measure in measures
        ]
        found = (cell for m in measures for cell in (counted(ours[m]) if m in ours else NOTHING))
        rows.append((names[arm], *found, ", ".join(told) or "no difference shown"))
    columns = [Column("arm", "arm")]
    for measure in measures:
        columns += folded(measure.id, measure.task or "all tokens")
    columns.append(Column("verdict", "verdict"))
    table = Table("by-task", "Held-out loss: difference from the first arm", tuple(columns), tuple(rows))
    return Section(
        "comparison-tasks",
        "Task by task",
        conclusion(compared, names),
        tables=parts(table),
        notes=("Nats a token; the intervals of all verdicts hold together at 95%.",),
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
        charts=(*charts, *_courses(results, arms, names)),
        tables=(*parts(_ends(results, arms, names)), Table("task-weights-end", "The last step", columns, rows)),
        notes=("Lines are means over seeds.",),
    )


def _courses(results: Results, arms: Sequence[Arm], names: Names) -> list[Chart]:
    """Loss, shares and trend of each task over time, a line an arm; more lines than a few tell nothing."""
    if len(arms) > _LINES:
        return []
    charts = []
    for task in sorted({task for arm in arms for task in _tasks(results, arm)}):
        for key, title, label, kind in _OVER_TIME:
            found = [_course(results, arm, f"task_{key}/{task}", names[arm]) for arm in arms]
            if key == "effective_share":  # the same rows in the same order for every arm
                found.append(_course(results, arms[0], f"task_token_share/{task}", "share of tokens"))
            chart = _lines(f"task-{key}-{task}", f"{title} of {task}", label, kind, tuple(filter(None, found)))
            charts += [] if chart is None else [chart]
    return charts


def _lines(key: str, title: str, label: str, kind: str, series: tuple[Series, ...]) -> Chart | None:
    if not series:
        return None
    ends = ", ".join(f"{one.label} {one.y[-1]:.3g}" for one in series)
    return Chart(
        key,
        "line",
        title,
        "optimizer step",
        label,
        series,
        f"At the end: {ends}.",
        format_x="integer",
        format_y=kind,
        bounds=SEEDS_BAND,
    )


def conflicts(results: Results, names: Names) -> Section | None:
    """How the tasks' gradients lay to each other, of the arms that looked at them."""
    key = "task_conflict_rate"
    arms = [arm for arm in results.arms if any(key in point.tasks for r in results.of(arm) for point in r.curve)]
    if not arms:
        return None
    last = results.of(arms[0])[0].curve[-1]
    pairs = sorted(name for name in last.tasks if name.startswith("task_cosine/"))
    columns = [Column("arm", "arm"), Column("rate", "conflicts", "percent", "Of the pairs of tasks in a step.")]
    columns += [Column(pair, pair.removeprefix("task_cosine/"), "number", "Cosine in the last step.") for pair in pairs]
    rows = [(names[arm], *(_mean(_values(results, arm, name, last.step)) for name in (key, *pairs))) for arm in arms]
    found = (_course(results, arm, key, names[arm]) for arm in arms)
    shown = tuple(one for one in found if one is not None) if len(arms) <= _LINES else ()
    chart = _lines("task-conflicts-rate", "Share of conflicts so far", "share of pairs", "percent", shown)
    rates = sorted({f"{row[1]:.0%}" for row in rows if isinstance(row[1], float)}, key=lambda text: int(text[:-1]))
    told = " to ".join(dict.fromkeys((rates[0], rates[-1])))
    return Section(
        "task-conflicts",
        "Conflicts of gradients",
        f"Gradients of two tasks pointed against each other in {told} of the pairs.",
        charts=() if chart is None else (chart,),
        tables=parts(Table("task-conflicts-end", "At the end", tuple(columns), tuple(rows))),
        notes=("Means over seeds. Weights do not change the sign of a cosine, but the path that is trained.",),
    )


def _course(results: Results, arm: Arm, key: str, label: str) -> Series | None:
    """What every seed knows of it over time: mean, lowest and highest; without the start, where nothing has moved."""
    columns = {p.step: _values(results, arm, key, p.step) for p in results.of(arm)[0].curve[1:]}
    columns = {step: values for step, values in columns.items() if values}
    if not columns:
        return None
    means = tuple(sum(values) / len(values) for values in columns.values())
    ends = (tuple(map(min, columns.values())), tuple(map(max, columns.values())))
    return Series(label, tuple(map(float, columns)), means, *ends)


def _ends(results: Results, arms: Sequence[Arm], names: Names) -> Table:
    tasks = sorted({task for arm in arms for task in _tasks(results, arm)})
    rows = []
    for arm in arms:
        last = results.of(arm)[0].curve[-1].step
        found = [_values(results, arm, f"task_weight/{task}", last) for task in tasks]
        rows.append(
            (names[arm], *(cell for w in found for cell in (_mean(w), min(w, default=None), max(w, default=None))))
        )
    columns = [Column("arm", "arm")]
    for task in tasks:
        columns += folded(task, task)
    return Table("task-weights-by-arm", "Where weights ended", tuple(columns), tuple(rows))


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
    """The weights, one line a task; None where nothing moved."""
    found = (_course(results, arm, f"task_weight/{task}", task) for task in _tasks(results, arm))
    series = tuple(one for one in found if one is not None)
    moved = any(max(one.high or ()) - min(one.low or ()) > 0.01 for one in series)  # type: ignore[type-var, operator]
    if not moved or len(series[0].x) < 2:
        return None
    ends = ", ".join(f"{one.label} {one.y[-1]:.2f}" for one in series)
    return Chart(
        f"task-weights-{number}", "line", name, "optimizer step", "weight", series, f"At the end: {ends}.",
        format_x="integer", bounds=SEEDS_BAND,
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
