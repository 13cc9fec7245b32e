"""Sections by group and by answer: tasks, languages, calibration, forgetting, what the arms said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sftloss.document import Chart, Column, Section, Series, Table
from sftloss.experiments.experiment import Arm
from sftloss.experiments.metrics import Bin
from sftloss.experiments.pages.sections import (
    CALIBRATION,
    FORGETTING,
    Shown,
    grey,
    grid,
    in_view,
    metric_table,
    parts,
    value_of,
)
from sftloss.experiments.run.results import Answer
from sftloss.experiments.verdicts.findings import Names
from sftloss.experiments.verdicts.verdicts import Results

_GROUPED = (
    Shown("token_nll", "loss per token", "nats"),
    Shown("example_nll", "loss per example", "nats"),
    Shown("exact_match", "right answers", "percent"),
    Shown("length_ratio", "length over reference", "ratio"),
)
_SAMPLES, _WIDE = 12, 4


def groups(results: Results, names: Names) -> Section | None:
    """Losses, right answers and lengths of each task and language."""
    examples = results.first.groups
    tables = [
        table
        for name, labels in (("task", examples.task), ("language", examples.language))
        if len(set(labels) - {""}) > 1
        for one in _GROUPED
        if results.mean(results.arms[0], one.key) is not None
        for table in parts(_group_table(results, names, np.asarray(labels), (name, one)))
    ]
    if not tables:
        return None
    return Section(
        "groups",
        "Tasks and languages",
        "What is gained in one task may be lost in another; rows with few examples have wide intervals.",
        tables=tuple(tables),
        notes=("Beside each name is its number of held-out examples. 95% intervals over seeds and examples, each for "
               "itself: not corrected for their number.",),
    )  # fmt: skip


def _group_table(results: Results, names: Names, labels: np.ndarray, of: tuple[str, Shown]) -> Table:
    """One metric, group by arm."""
    name, one = of
    chosen = {str(group): labels == group for group in sorted(set(labels) - {""})}
    return grid(
        (f"groups-{name}-{one.key}", f"{one.label[0].upper()}{one.label[1:]} by {name}"),
        (name, [f"{group} ({int(where.sum()):,})" for group, where in chosen.items()]),
        ("arm", [names[arm] for arm in results.arms]),
        [[value_of(results, arm, one, where) for arm in results.arms] for where in chosen.values()],
        one.kind,
    )


def calibration(results: Results, names: Names) -> Section | None:
    """Whether a model that says p is right in a share p of the cases."""
    charts = tuple(filter(None, (_token_reliability(results, names), _end_reliability(results, names))))
    if not charts:
        return None
    table = metric_table(results, names, CALIBRATION, ("calibration", "Calibration"))
    return Section(
        "calibration",
        "Calibration",
        "Points on the diagonal mean that confidence can be believed.",
        charts=charts,
        tables=() if table is None else (table,),
        notes=("Bins of confidence hold equal numbers of tokens; those of the end are places. Means over seeds.",),
    )


def _token_reliability(results: Results, names: Names) -> Chart | None:
    told = "Above the diagonal the model is right more often than it says, below it less often."
    series = _diagram(results, names, {arm: [r.reliability for r in results.of(arm)] for arm in results.arms})
    return None if series is None else Chart(
        "reliability", "line", "Reliability", "confidence: probability of the top token", "share of top tokens right",
        series, f"{told}{grey(results)}", format_x="percent", format_y="percent",
    )  # fmt: skip


def _end_reliability(results: Results, names: Names) -> Chart | None:
    told = (
        "A point is a place in the answer. Below the diagonal the model wants to stop there more often than the data."
    )
    series = _diagram(results, names, {arm: [r.end_reliability for r in results.of(arm)] for arm in results.arms})
    return None if series is None else Chart(
        "end-reliability", "line", "Reliability of the end", "probability of ending", "share of answers that end",
        series, f"{told}{grey(results)}", format_x="percent", format_y="percent",
    )  # fmt: skip


def _diagram(results: Results, names: Names, bins: Mapping[Arm, Sequence[Sequence[Bin]]]) -> tuple[Series, ...] | None:
    """Said against seen beside the diagonal, means over seeds; None where an arm has fewer than two bins."""
    lines = {}
    for arm, by_seed in bins.items():
        points = list(zip(*by_seed, strict=False))
        if len(points) < 2:
            return None
        lines[arm] = Series(
            names[arm],
            tuple(float(np.mean([b.predicted for b in column])) for column in points),
            tuple(float(np.mean([b.observed for b in column])) for column in points),
        )
    ends = (0.0, 1.0)
    return (Series("calibrated", ends, ends, is_reference=True), *in_view(results, lines))


def forgetting(results: Results, names: Names) -> Section | None:
    """What training did to the second data file."""
    table = metric_table(results, names, FORGETTING, ("forgetting", "Second data file"))
    if table is None:
        return None
    return Section(
        "forgetting",
        "Forgetting",
        "The same rows before and after training: a loss that moves the model less forgets less.",
        tables=(table,),
        notes=("KL(before || after), the mean over the tokens of those rows, nats.",),
    )


def outputs(results: Results, names: Names, said: Mapping[Arm, Sequence[Answer]]) -> Section | None:
    """Greedy answers of the first seed side by side, differing ones first, tasks in turn."""
    arms = [arm for arm in results.arms if said.get(arm)]
    if not arms:
        return None
    rows = list(zip(*(said[arm] for arm in arms), strict=True))
    differing = [i for i, row in enumerate(rows) if len({answer.greedy for answer in row}) > 1]
    picked = _in_turn(differing, results.first.groups.task) or list(range(len(rows)))
    picked = picked[:_SAMPLES]
    lead = f"{len(differing)} of {len(rows)} held-out prompts got different answers from different arms; some of them."
    if len(arms) <= _WIDE:
        columns = (Column("prompt", "prompt"), Column("reference", "reference"),
                   *(Column(f"arm{i}", names[arm]) for i, arm in enumerate(arms)))  # fmt: skip
        cells_ = tuple((rows[i][0].prompt, rows[i][0].reference, *map(_told, rows[i])) for i in picked)
    else:
        columns = (Column("prompt", "prompt"), Column("arm", "arm"), Column("answer", "answer"))
        cells_ = tuple(
            (answer.prompt if k == 0 else "", name, text)
            for i in picked
            for k, (answer, name, text) in enumerate(
                [(rows[i][0], "reference", rows[i][0].reference),
                 *((a, names[arm], _told(a)) for a, arm in zip(rows[i], arms, strict=True))]
            )
        )  # fmt: skip
    table = Table(
        "outputs", "Greedy answers, first seed", columns, cells_, note="✓ right, ✗ wrong, where it can be told."
    )
    return Section("outputs", "Sample answers", lead, tables=(table,))


def _told(answer: Answer) -> str:
    mark = {None: "", 1.0: " ✓", 0.0: " ✗"}.get(answer.score, "")
    return (answer.greedy or "(empty)") + mark


def _in_turn(rows: Sequence[int], tasks: Sequence[str]) -> list[int]:
    """One of each task, then the next of each, so that a large task does not fill the table."""
    by_task: dict[str, list[int]] = {}
    for i in rows:
        by_task.setdefault(tasks[i] if i < len(tasks) else "", []).append(i)
    turns = max((len(v) for v in by_task.values()), default=0)
    return [by_task[t][k] for k in range(turns) for t in sorted(by_task) if k < len(by_task[t])]
