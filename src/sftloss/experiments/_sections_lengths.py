"""How long generated answers are, beside what the length tilt predicted from the training rows."""

from __future__ import annotations

import numpy as np

from sftloss.analysis.document import Cell, Chart, Column, Section, Series, Table
from sftloss.experiments._findings import Names
from sftloss.experiments._plan import Arm
from sftloss.experiments._results import Forecast
from sftloss.experiments._sections import cells
from sftloss.experiments._verdicts import Results

_BINS = 24


def lengths(results: Results, names: Names) -> Section | None:
    """Predicted and generated mean lengths side by side, and the distributions."""
    if not results.first.lengths or results.mean(results.arms[0], "length_ratio") is None:
        return None
    reference = float(np.mean(results.first.reference_lengths))
    parts = []
    for arm in results.arms:
        seen = results.mean(arm, "length_ratio")
        parts.append(f"{names[arm]} {reference * seen.value:.1f}" if seen is not None else names[arm])
    tables = [_table(results, names), *filter(None, (_by_task(results, names),))]
    return Section(
        "lengths",
        "Answer length",
        f"Held-out answers have {reference:.1f} tokens in the mean, generated ones: {', '.join(parts)}.",
        charts=(_distribution(results, names),),
        tables=tuple(tables),
        notes=(
            "Predicted: at its optimum, cross-entropy with the weight T^-alpha on a sequence learns the data "
            "reweighted by it; only the variation of length given the prompt can tilt. It says nothing of other "
            "losses, and of finite training only where it ends up. Lengths count the end of the answer; answers that "
            "were cut off count as long as they got.",
        ),
    )


def _forecast(results: Results, arm: Arm, task: str = "") -> Forecast | None:
    return results.of(arm)[0].forecasts.get(task) if arm.loss == "cross_entropy" else None


def _table(results: Results, names: Names) -> Table:
    rows = []
    for arm in results.arms:
        told = _forecast(results, arm)
        seen = cells(results.mean(arm, "length_ratio"))
        ratios: tuple[Cell, ...] = (None, None)
        if told is not None and told.data > 0:
            ratios = (told.within_prompt / told.data, told.whole / told.data)
        rows.append((names[arm], *ratios, *seen))
    columns = (
        Column("arm", "arm"),
        Column("within", "predicted, given the prompt", "ratio", "Mean length over the training data's."),
        Column("whole", "predicted bound", "ratio", "If the prompt said nothing about length."),
        Column("generated", "generated", "ratio", "Mean length of samples over the held-out references'."),
        Column("generated_low", "low", "ratio"),
        Column("generated_high", "high", "ratio"),
    )
    return Table("lengths", "Mean length over the data's: predicted and generated", columns, tuple(rows))


def _by_task(results: Results, names: Names) -> Table | None:
    """The same by task: where answers of several lengths share a prompt is where a tilt can be seen."""
    tasks = np.asarray(results.first.examples.task)
    ratios = results.ratios(results.arms[0], "length_ratio")
    if len(set(tasks)) < 2 or ratios is None:
        return None
    rows = []
    # first the tasks in which a tilt is predicted: a page that is cut short then shows them
    for task in sorted(set(tasks) - {""}, key=lambda task: (-_shift(results, task), task)):
        chosen = tasks == task
        for arm in results.arms:
            told = _forecast(results, arm, task)
            seen = cells(results.mean(arm, "length_ratio", chosen))
            predicted = None if told is None or not told.data > 0 else told.within_prompt / told.data
            rows.append((task, names[arm], predicted, *seen))
    columns = (
        Column("task", "task"),
        Column("arm", "arm"),
        Column("within", "predicted, given the prompt", "ratio"),
        Column("generated", "generated", "ratio"),
        Column("generated_low", "low", "ratio"),
        Column("generated_high", "high", "ratio"),
    )
    return Table("lengths-task", "By task", columns, tuple(rows))


def _shift(results: Results, task: str) -> float:
    """The largest shift that any arm predicts for a task."""
    told = [_forecast(results, arm, task) for arm in results.arms]
    return round(max((abs(f.within_prompt / f.data - 1) for f in told if f is not None and f.data > 0), default=0.0), 6)


def _distribution(results: Results, names: Names) -> Chart:
    """Shares of answers up to each length: curves that can be read without bins, the references as the anchor."""
    references = np.asarray(results.first.reference_lengths, dtype=np.float64)
    pooled = {arm: np.concatenate([np.concatenate([np.asarray(row) for row in r.lengths]) for r in results.of(arm)])
              for arm in results.arms}  # fmt: skip
    top = int(max(np.quantile(v, 0.995) for v in (references, *pooled.values())))
    points = np.unique(np.linspace(0, max(top, 1), min(top, _BINS) + 1).round())

    def line(label: str, values: np.ndarray, is_reference: bool = False) -> Series:
        share = tuple(float((values <= point).mean()) for point in points)
        return Series(label, tuple(points.tolist()), share, is_reference=is_reference)

    series = [line(names[arm], pooled[arm]) for arm in results.arms]
    medians = ", ".join(f"{names[arm]} {np.median(pooled[arm]):.0f}" for arm in results.arms)
    return Chart(
        "length-distribution", "line", "Answers up to each length", "tokens of the answer", "share of answers",
        (line("references", references, True), *series),
        f"Cumulative shares. Median lengths: references {np.median(references):.0f}, {medians}.",
        format_x="integer", format_y="percent",
    )  # fmt: skip
