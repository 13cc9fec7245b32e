"""Lengths of answers during training, to seen and unseen prompts, sampled and greedy, beside the forecast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sftloss.document import Cell, Chart, Column, Section, Series, Table
from sftloss.experiments.experiment import Arm
from sftloss.experiments.metrics import Ratio
from sftloss.experiments.pages.tables import EMPTY, Triple, mean_cells, triple_columns
from sftloss.experiments.verdicts.comparisons import LEAST_TILT, Results
from sftloss.words import counted

STEPS = "length-steps"
"""Id of the section; its tables' ids begin with it."""
_KINDS = ("seen sampled", "seen greedy", "unseen sampled", "unseen greedy")


def length_steps_section(results: Results) -> Section | None:
    """Length relative to the first arm by step, one table for each task; None where no lengths were traced."""
    parts = {name: _part(results, name) for name in results.first.traced}
    if not parts:
        return None
    tasks = tuple(dict.fromkeys(task for part in parts.values() for task in part.first.groups.task))
    about = f"Answer length with {results.names[results.arms[-1]]} over that with {results.reference}, 95 % intervals."
    lead = " ".join((about, *(_sentence(results, parts, task) for task in tasks)))
    return Section(
        STEPS,
        "Answer length by step",
        lead,
        charts=tuple(_chart(results, parts, task) for task in tasks),
        tables=tuple(_table(results, parts, task) for task in tasks),
        notes=(
            f"Mean tokens of an answer over those of {results.reference} at the same step, with 95 % intervals over "
            "seeds and prompts, not corrected for their number. Seen prompts are of the training rows; unseen ones are "
            "held out, and no training row has them. The forecast is from the training rows, for the optimum: given "
            "the prompt, and the bound for a model that ignores the prompt.",
        ),
    )


def _part(results: Results, name: str) -> Results:
    """The same arms with the lengths of the seen or the unseen rows as metrics, one for each way and step."""

    def metrics(lengths: Mapping[str, list[float]], step: int) -> dict[str, Ratio]:
        ours = {key: np.asarray(values) for key, values in lengths.items() if key.startswith(f"{name} ")}
        return {f"{key} {step}": Ratio(values, np.ones(len(values))) for key, values in ours.items()}

    by_trial = {
        trial: replace(one, groups=one.traced[name], forgetting={},
                       metrics={k: v for p in one.curve for k, v in metrics(p.lengths, p.step).items()})
        for trial, one in results.by_trial.items()
    }  # fmt: skip
    return replace(results, by_trial=by_trial)


def _steps(results: Results) -> tuple[int, ...]:
    return tuple(point.step for point in results.first.curve if point.lengths)


def _relative(parts: Mapping[str, Results], arm: Arm, task: str, kind: str, step: int) -> Triple:
    """Length over the first arm's with its interval; empty where there are no such rows."""
    part = parts.get(kind.split()[0])
    if part is None or task not in part.first.groups.task:
        return EMPTY
    return mean_cells(part.relative(arm, f"{kind} {step}", part.tasks == task), (0.0, np.inf))


def _table(results: Results, parts: Mapping[str, Results], task: str) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (step, results.names[arm], results.predicted_length(arm, task),
         results.predicted_length(arm, task, is_bound=True),
         *(cell for kind in _KINDS for cell in _relative(parts, arm, task, kind, step)))
        for step in _steps(results)
        for arm in results.arms[1:]
    )  # fmt: skip
    columns = (
        Column("step", "step", "integer"),
        Column("arm", "arm"),
        Column("within", "predicted within prompts", "ratio"),
        Column("whole", "predicted at the bound", "ratio"),
        *(column for kind in _KINDS for column in triple_columns(kind.replace(" ", "-"), kind, "ratio")),
    )
    prompts = {name: len(set(np.asarray(part.first.groups.prompt)[part.tasks == task])) for name, part in parts.items()}
    counts = ", ".join(counted(count, f"{name} prompt") for name, count in prompts.items())
    return Table(
        f"{STEPS}-{task}", f"{task or 'all rows'}: length relative to {results.reference} ({counts})", columns, rows
    )


def _sentence(results: Results, parts: Mapping[str, Results], task: str) -> str:
    """The forecast, then each kind of answer at the first and the last step."""
    arm, steps = results.arms[-1], _steps(results)
    within, bound = results.predicted_length(arm, task), results.predicted_length(arm, task, is_bound=True)
    is_open = within is not None and abs(within - 1.0) >= LEAST_TILT
    what = "one prompt has answers of several lengths" if is_open else "the prompt determines the length"
    forecast = "" if within is None or bound is None else f": {within:.2f}× predicted, {bound:.2f}× at the bound"
    reports = []
    for kind in _KINDS:
        first, last = (_words(_relative(parts, arm, task, kind, step)) for step in (steps[0], steps[-1]))
        if last:
            prompts, way = kind.split()
            words = f"{way} answers to {prompts} prompts {first} at step {steps[0]:,}, {last} at step {steps[-1]:,}"
            reports.append(words[0].upper() + words[1:] + ".")
    return f"{task or 'All rows'}, where {what}{forecast}. {' '.join(reports)}"


def _words(cells: Triple) -> str:
    value, low, high = cells
    bounds = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    return "" if value is None else f"{value:.2f}×{bounds}"


def _chart(results: Results, parts: Mapping[str, Results], task: str) -> Chart:
    arm, steps = results.arms[-1], _steps(results)
    xs = tuple(map(float, steps))
    series = []
    for kind in _KINDS:
        cells = [_relative(parts, arm, task, kind, step) for step in steps]
        if any(value is not None for value, *_ in cells):
            value, low, high = zip(*cells, strict=True)
            series.append(Series(kind, xs, value, low, high))
    for label, is_bound in (("predicted within prompts", False), ("predicted at the bound", True)):
        level = results.predicted_length(arm, task, is_bound=is_bound)
        if level is not None:
            series.append(Series(label, xs, (level,) * len(xs), is_reference=True))
    return Chart(
        f"{STEPS}-{task}", "line", f"{task or 'all rows'}: answer length with {results.names[arm]}", "optimizer step",
        f"length over that with {results.reference}", tuple(series), _sentence(results, parts, task),
        format_x="integer", format_y="ratio", bounds="95 % interval",
    )  # fmt: skip
