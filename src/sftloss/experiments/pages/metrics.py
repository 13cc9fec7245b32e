"""Sections of a comparison's report: all metrics, learning curves."""

from __future__ import annotations

from sftloss.document import Chart, Section, Series, Table
from sftloss.experiments.experiment import Experiment
from sftloss.experiments.pages.sections import (
    ANSWERS,
    CALIBRATION,
    LOSS,
    UNKNOWN,
    difference_of,
    grey,
    grid,
    in_view,
    metric_table,
    outstanding,
    parts,
    samples_of,
)
from sftloss.experiments.pages.words import listed
from sftloss.experiments.verdicts.findings import Names
from sftloss.experiments.verdicts.verdicts import HEADLINE, Results

_LOG = 5.0  # a loss that falls by more is drawn on a logarithmic axis
SEEDS_BAND = "lowest to highest seed"


def metrics(experiment: Experiment, results: Results, names: Names) -> Section:
    """Common metrics of every arm, each with its interval; never an arm's own training loss."""
    drawn = "sampled" if experiment.samples else "greedy"
    tables = (
        metric_table(results, names, LOSS, ("metrics-loss", "Loss and right answers")),
        metric_table(results, names, ANSWERS, ("metrics-answers", f"Length and form of {drawn} answers")),
        metric_table(results, names, samples_of(results), ("metrics-samples", "Several samples of one prompt")),
        metric_table(results, names, UNKNOWN, ("metrics-unknown", "Questions without an answer")),
        *_further(results, names),
    )
    return Section(
        "metrics",
        "All metrics",
        "Cross-entropy on held-out rows is the common measure: an arm's own loss is not comparable with another's. It "
        "favours arms that train it; right answers, lengths and calibration favour none.",
        tables=tuple(table for table in tables if table is not None),
        notes=(
            "Brackets are 95% intervals over seeds and examples; none where all examples of all seeds agree. Where a "
            "metric is no mean over examples (calibration error, KS) they are the lowest and the highest seed; "
            "its differences have intervals from resampled examples and the spread of seeds.",
            "These are many numbers without verdicts: one interval in twenty misses by chance.",
        ),
    )


def _further(results: Results, names: Names) -> tuple[Table, ...]:
    """Paired differences of what no verdict is about, measure by arm."""
    judged = {measure.key for measure in HEADLINE}
    arms = results.arms[1:]
    shown = [one for one in (*CALIBRATION, *ANSWERS, *samples_of(results), *UNKNOWN, *LOSS) if one.key not in judged]
    found = {one: [difference_of(results, arm, one) for arm in arms] for one in shown}
    there = [one for one in shown if any(value is not None for value, *_ in found[one])]
    if not there:
        return ()
    labels = [one.label + {"percent": ", points", "nats": ", nats"}.get(one.kind, "") for one in there]
    table = grid(
        ("metrics-differences", "Further differences from the first arm"),
        ("measure", labels),
        ("arm", [names[arm] for arm in arms]),
        [found[one] for one in there],
        "number",
    )
    return parts(table)


def curves(results: Results, names: Names) -> Section | None:
    """Held-out loss during training: mean over seeds, lowest and highest seed as the band."""
    lines, start = {}, 0.0
    for arm in results.arms:
        by_seed = [{p.step: p.nll for p in r.curve} for r in results.of(arm)]
        steps = sorted(set.intersection(*(set(points) for points in by_seed))) if by_seed else []
        if len(steps) < 2:
            return None
        start = sum(points[steps[0]] for points in by_seed) / len(by_seed)
        # the start, which all arms share, is far above all that tells them apart
        columns = [[points[step] for points in by_seed] for step in (steps[1:] if len(steps) > 2 else steps)]
        means = tuple(sum(column) / len(column) for column in columns)
        band = (tuple(map(min, columns)), tuple(map(max, columns))) if len(by_seed) > 1 else (None, None)
        lines[arm] = Series(names[arm], tuple(map(float, steps[-len(columns) :])), means, *band)
    ends = listed(tuple(f"{names[arm]} {lines[arm].y[-1]:.2f}" for arm in outstanding(results)))
    lead = f"At equal steps and tokens, held-out loss went from {start:.2f} nats a token to: {ends}.{grey(results)}"
    shown = [value for line in lines.values() for value in line.y if value is not None]
    chart = Chart(
        "curves", "line", "Held-out loss during training", "optimizer step", "loss per token, nats",
        in_view(results, lines), lead, format_x="integer", format_y="nats", bounds=SEEDS_BAND,
        scale_y="log" if min(shown) > 0 and max(shown) > _LOG * min(shown) else "linear",
    )  # fmt: skip
    return Section(
        "curves",
        "Learning curves",
        lead,
        charts=(chart,),
        notes=("Cross-entropy of the tokens of the first 96 held-out rows, whatever was trained; the start, before the "
               "first step, is left out. Lines are means over seeds.",),
    )  # fmt: skip
