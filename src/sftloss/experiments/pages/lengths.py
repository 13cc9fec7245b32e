"""How long generated answers are, beside what the length tilt predicted from the training rows."""

from __future__ import annotations

import numpy as np

from sftloss.document import Cell, Chart, Column, Section, Series, Table
from sftloss.experiments.experiment import Experiment
from sftloss.experiments.pages.sections import cells, folded, grey, in_view, outstanding, parts
from sftloss.experiments.verdicts.findings import Names, relative_forecast
from sftloss.experiments.verdicts.verdicts import SHIFT, Results

_BINS = 24
_PREDICTED = Column(
    "within",
    "predicted, given the prompt",
    "ratio",
    "As length varies among the data's answers to one prompt.",
)
_GENERATED = folded("generated", "generated", "ratio", "Mean tokens over the first arm's, same prompts and seeds.")


def lengths(experiment: Experiment, results: Results, names: Names) -> Section | None:
    """Predicted and generated lengths against the first arm's side by side, tokens, and the distributions."""
    if not results.first.lengths or results.mean(results.arms[0], "length_ratio") is None:
        return None
    drawn = "sampled" if experiment.samples else "greedy"
    reference = float(np.mean(results.first.reference_lengths))
    seen = {arm: results.mean(arm, "length") for arm in outstanding(results)}
    told = ", ".join(f"{names[arm]} {mean.value:.1f}" for arm, mean in seen.items() if mean is not None)
    return Section(
        "lengths",
        "Answer length",
        f"Held-out answers have {reference:.1f} tokens in the mean, {drawn} ones: {told}.",
        charts=(_distribution(results, names),),
        tables=(_against_first(results, names), _tokens(results, names, reference), *_by_task(results, names)),
        notes=(
            "Predicted: at its optimum, cross-entropy with the weight T^-alpha on a sequence learns the data "
            "reweighted by it; only the variation of length given the prompt can tilt. It says nothing of other "
            "losses, and of finite training only where it ends up. Both are relative to the first arm: predicted from "
            "the training rows, generated on the held-out prompts, paired, with 95% intervals over examples and "
            "seeds. Lengths count the end of the answer; answers that were cut off count as long as they got.",
        ),
    )


def _against_first(results: Results, names: Names) -> Table:
    rows = tuple(
        (names[arm], relative_forecast(results, arm), relative_forecast(results, arm, is_bound=True),
         *cells(results.relative(arm, "length_ratio")))
        for arm in results.arms[1:]
    )  # fmt: skip
    bound = Column("whole", "predicted bound", "ratio", "If the prompt said nothing about length.")
    columns = (Column("arm", "arm"), _PREDICTED, bound, *_GENERATED)
    return Table("lengths", "Length against the first arm: predicted and generated", columns, rows)


def _tokens(results: Results, names: Names, reference: float) -> Table:
    """Tokens of an answer, of the references and of each arm."""
    rows: list[tuple[Cell, ...]] = [("references", reference, None, None, None, None, None)]
    for arm in results.arms:
        rows.append((names[arm], *cells(results.mean(arm, "length")), *cells(results.mean(arm, "length_ratio"))))
    columns = (
        Column("arm", "arm"),
        *folded("tokens", "mean tokens"),
        *folded("ratio", "over the references", "ratio"),
    )
    return Table("length-tokens", "Tokens of an answer", columns, tuple(rows))


def _by_task(results: Results, names: Names) -> tuple[Table, ...]:
    """The same by task, where a tilt is predicted in any: those come first."""
    labels, arms = np.asarray(results.first.groups.task), results.arms[1:]
    tasks = sorted(set(labels) - {""}, key=lambda task: (-_shift(results, task), task))
    if len(tasks) < 2 or _shift(results, tasks[0]) < SHIFT:
        return ()
    rows = tuple(
        (str(task), names[arm], relative_forecast(results, arm, task),
         *cells(results.relative(arm, "length_ratio", labels == task)))
        for task in tasks
        for arm in arms
    )  # fmt: skip
    columns = (Column("task", "task"), Column("arm", "arm"), _PREDICTED, *_GENERATED)
    return parts(Table("lengths-task", "Length against the first arm by task", columns, rows))


def _shift(results: Results, task: str) -> float:
    """The largest shift that any arm predicts for a task."""
    told = (relative_forecast(results, arm, task) for arm in results.arms)
    return round(max((abs(ratio - 1.0) for ratio in told if ratio is not None), default=0.0), 6)


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

    drawn = in_view(results, {arm: line(names[arm], pooled[arm]) for arm in results.arms})
    medians = ", ".join(f"{names[arm]} {np.median(pooled[arm]):.0f}" for arm in outstanding(results))
    return Chart(
        "length-distribution", "line", "Answers up to each length", "tokens of the answer", "share of answers",
        (line("references", references, True), *drawn),
        f"Cumulative shares. Median lengths: references {np.median(references):.0f}, {medians}.{grey(results)}",
        format_x="integer", format_y="percent",
    )  # fmt: skip
