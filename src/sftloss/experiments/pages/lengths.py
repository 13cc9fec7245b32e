"""Lengths of generated answers, beside those that the length tilt predicted from the training rows."""

from __future__ import annotations

import numpy as np

from sftloss.document import Cell, Chart, Column, Section, Series, Table
from sftloss.experiments.experiment import Arm
from sftloss.experiments.pages.tables import chart_lines, grey_note, in_parts, mean_cells, named_arms, triple_columns
from sftloss.experiments.verdicts.comparisons import LEAST_TILT, Results
from sftloss.words import number

_BINS = 24
_PREDICTED = (
    Column(
        "within",
        "predicted within prompts",
        "ratio",
        "If length varies only among the data's answers to one prompt.",
    ),
    Column("whole", "predicted at the bound", "ratio", "If the prompt did not determine length at all."),
)
_CUT = "Lengths count the end of the answer; answers that were cut off count up to the cut."
_FORECAST = (
    "Predicted: at its optimum, cross-entropy with the weight T^-alpha on a sequence learns the data reweighted by it, "
    "and only the variation of length within a prompt can change. This holds for cross-entropy, and for the end of a "
    "long training. Both lengths are relative to the first arm: the predicted one is from the training rows; the "
    "generated one is on the held-out prompts, paired, with 95 % intervals over examples and seeds. " + _CUT
)
_MEASURED = (
    "Generated: on the held-out prompts, paired with the first arm, with 95 % intervals over examples and seeds. "
    + _CUT
)
_GENERATED = triple_columns("generated", "generated", "ratio", "Mean tokens over those of the first arm, paired.")


def answer_lengths_section(results: Results) -> Section | None:
    """Predicted and generated lengths relative to the first arm, tokens, and the distributions."""
    if not results.first.lengths or results.mean(results.arms[0], "length_ratio") is None:
        return None
    drawn = "sampled" if results.first.is_sampled else "greedy"
    reference = float(np.mean(results.first.reference_lengths))
    means = {arm: results.mean(arm, "length") for arm in named_arms(results)}
    values = ", ".join(f"{results.names[arm]} {number(mean.value)}" for arm, mean in means.items() if mean is not None)
    return Section(
        "lengths",
        "Answer length",
        f"Mean tokens of an answer: held-out references {number(reference)}; {drawn} answers: {values}.",
        charts=(_distribution(results),),
        tables=(_against_first(results), _tokens(results, reference), *_by_task(results)),
        notes=(_FORECAST if _has_forecast(results) else _MEASURED,),
    )


def _has_forecast(results: Results) -> bool:
    return any(value is not None for arm in results.arms[1:] for value in _predicted(results, arm))


def _against_first(results: Results) -> Table:
    has_forecast = _has_forecast(results)
    rows = tuple(
        (
            results.names[arm],
            *(_predicted(results, arm) if has_forecast else ()),
            *mean_cells(results.relative(arm, "length_ratio")),
        )
        for arm in results.arms[1:]
    )
    columns = (Column("arm", "arm"), *(_PREDICTED if has_forecast else ()), *_GENERATED)
    suffix = ": predicted and generated" if has_forecast else ""
    return Table("lengths", f"Length relative to the first arm{suffix}", columns, rows)


def _predicted(results: Results, arm: Arm, task: str = "") -> tuple[float | None, float | None]:
    """Length over the first arm's: given the prompt, and where the prompt determines no length."""
    return results.predicted_length(arm, task), results.predicted_length(arm, task, is_bound=True)


def _tokens(results: Results, reference: float) -> Table:
    """Tokens of an answer, of the references and of each arm."""
    rows: list[tuple[Cell, ...]] = [("references", reference, None, None, None, None, None)]
    for arm in results.arms:
        tokens, ratio = (mean_cells(results.mean(arm, key)) for key in ("length", "length_ratio"))
        rows.append((results.names[arm], *tokens, *ratio))
    columns = (
        Column("arm", "arm"),
        *triple_columns("tokens", "mean tokens"),
        *triple_columns("ratio", "over the references", "ratio"),
    )
    return Table("length-tokens", "Tokens of an answer", columns, tuple(rows))


def _by_task(results: Results) -> tuple[Table, ...]:
    """The same by task, largest predicted change first; empty where no change is predicted."""
    tasks = sorted(results.task_names, key=lambda task: (-_shift(results, task), task))
    if len(tasks) < 2 or _shift(results, tasks[0]) < LEAST_TILT:
        return ()
    rows = tuple(
        (task, results.names[arm], *_predicted(results, arm, task),
         *mean_cells(results.relative(arm, "length_ratio", results.tasks == task)))
        for task in tasks
        for arm in results.arms[1:]
    )  # fmt: skip
    columns = (Column("task", "task"), Column("arm", "arm"), *_PREDICTED, *_GENERATED)
    return in_parts(Table("lengths-task", "Length relative to the first arm by task", columns, rows))


def _shift(results: Results, task: str) -> float:
    """The largest change that any arm predicts for a task."""
    ratios = (results.predicted_length(arm, task) for arm in results.arms)
    return round(max((abs(ratio - 1.0) for ratio in ratios if ratio is not None), default=0.0), 6)


def _distribution(results: Results) -> Chart:
    """Share of answers up to each length: curves without bins, the references for comparison."""
    references = np.asarray(results.first.reference_lengths, dtype=np.float64)
    pooled = {arm: np.concatenate([np.concatenate([np.asarray(row) for row in r.lengths]) for r in results.of(arm)])
              for arm in results.arms}  # fmt: skip
    top = int(max(np.quantile(v, 0.995) for v in (references, *pooled.values())))
    points = np.unique(np.linspace(0, max(top, 1), min(top, _BINS) + 1).round())

    def line(label: str, values: np.ndarray, is_reference: bool = False) -> Series:
        share = tuple(float((values <= point).mean()) for point in points)
        return Series(label, tuple(points.tolist()), share, is_reference=is_reference)

    drawn = chart_lines(results, {arm: line(results.names[arm], pooled[arm]) for arm in results.arms})
    medians = ", ".join(f"{results.names[arm]} {np.median(pooled[arm]):.0f}" for arm in named_arms(results))
    return Chart(
        "length-distribution", "line", "Answers up to each length", "tokens of the answer", "share of answers",
        (line("references", references, True), *drawn),
        f"Cumulative shares. Median lengths: references {np.median(references):.0f}, {medians}.{grey_note(results)}",
        format_x="integer", format_y="percent",
    )  # fmt: skip
