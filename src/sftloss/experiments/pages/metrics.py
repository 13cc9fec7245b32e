"""Sections of all metrics, of calibration, of the second data file, and of the learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sftloss.document import Chart, Section, Series, Table
from sftloss.experiments.experiment import Arm
from sftloss.experiments.metrics import Bin
from sftloss.experiments.pages import tables
from sftloss.experiments.verdicts.comparisons import HEADLINE, Results
from sftloss.words import listed, number

_LOG = 5.0  # a loss that falls by a larger factor is drawn on a logarithmic axis


def metrics_section(results: Results) -> Section:
    """Common metrics of every arm with their intervals."""
    drawn = "sampled" if results.first.is_sampled else "greedy"
    samples = tables.sample_metrics(results)
    parts = (
        tables.metric_table(results, tables.LOSS, "metrics-loss", "Loss and right answers"),
        tables.metric_table(results, tables.ANSWERS, "metrics-answers", f"Length and form of {drawn} answers"),
        tables.metric_table(results, samples, "metrics-samples", "Several samples of one prompt"),
        tables.metric_table(results, tables.ABSTENTION, "metrics-unknown", "Questions without an answer"),
        *_further_differences(results),
    )
    return Section(
        "metrics",
        "All metrics",
        "All arms are measured by cross-entropy on held-out rows, because their own losses cannot be compared. It "
        "favours arms that train cross-entropy; right answers, lengths and calibration favour no arm.",
        tables=tuple(table for table in parts if table is not None),
        notes=(
            "Brackets are 95 % intervals over seeds and examples; there are none where all examples of all seeds "
            "agree. For a metric that is not a mean over examples (calibration error, KS) they are the lowest and the "
            "highest seed, and intervals of its differences come from resampled examples and the spread of seeds.",
            "None of these numbers is a verdict: of many 95 % intervals, one in twenty misses by chance.",
        ),
    )


def _further_differences(results: Results) -> tuple[Table, ...]:
    """Paired differences of the metrics without verdicts, metric by arm."""
    judged, arms = {measure.key for measure in HEADLINE}, results.arms[1:]
    samples = tables.sample_metrics(results)
    shown = (*tables.CALIBRATION, *tables.ANSWERS, *samples, *tables.ABSTENTION, *tables.LOSS)
    cells = {
        one: [tables.difference_cells(results, arm, one) for arm in arms] for one in shown if one.key not in judged
    }
    cells = {one: row for one, row in cells.items() if any(value is not None for value, *_ in row)}
    if not cells:
        return ()
    labels = [one.label + {"percent": ", points", "nats": ", nats"}.get(one.kind, "") for one in cells]
    down, across = tables.Side("measure", labels), tables.Side("arm", [results.names[arm] for arm in arms])
    title, values = "Further differences from the first arm", list(cells.values())
    return tables.in_parts(tables.two_way_table("metrics-differences", title, down, across, values, "number"))


def curves_section(results: Results) -> Section | None:
    """Held-out loss during training: mean over seeds, and the band from the lowest to the highest seed."""
    lines, start = {}, 0.0
    for arm in results.arms:
        by_seed = [{p.step: p.nll for p in r.curve} for r in results.of(arm)]
        steps = sorted(set.intersection(*(set(points) for points in by_seed)))
        if len(steps) < 2:
            return None
        start = sum(points[steps[0]] for points in by_seed) / len(by_seed)
        # the start, equal for all arms, is far above everything that differs
        columns = {step: [points[step] for points in by_seed] for step in (steps[1:] if len(steps) > 2 else steps)}
        if (line := tables.seeds_line(results.names[arm], columns)) is not None:
            lines[arm] = line
    ends = listed([f"{results.names[arm]} {number(lines[arm].y[-1] or 0.0)}" for arm in tables.named_arms(results)])
    lead = f"With equal steps and tokens, held-out loss went from {number(start)} nats per token to: {ends}."
    lead += tables.grey_note(results)
    shown = [value for line in lines.values() for value in line.y if value is not None]
    chart = Chart(
        "curves", "line", "Held-out loss during training", "optimizer step", "loss per token, nats",
        tables.chart_lines(results, lines), lead, format_x="integer", format_y="nats", bounds=tables.SEEDS_BAND,
        scale_y="log" if min(shown) > 0 and max(shown) > _LOG * min(shown) else "linear",
    )  # fmt: skip
    note = ("Cross-entropy of the tokens of the first 96 held-out rows, for every arm. The point before the first step "
            "is left out. Lines are means over seeds.")  # fmt: skip
    return Section("curves", "Learning curves", lead, charts=(chart,), notes=(note,))


def calibration_section(results: Results) -> Section | None:
    """Whether tokens predicted with probability p are right in a share p of the cases."""
    above = "Above the diagonal the model is right more often than its confidence, below it less often."
    tokens = {arm: [r.reliability for r in results.of(arm)] for arm in results.arms}
    ends = {arm: [r.end_reliability for r in results.of(arm)] for arm in results.arms}
    below = "A point is a position in the answer. Below the diagonal the model predicts more ends than the data has."
    charts = (
        _diagram(results, tokens, Chart(
            "reliability", "line", "Reliability", "confidence: probability of the top token",
            "share of top tokens right", (), above)),
        _diagram(results, ends, Chart(
            "end-reliability", "line", "Reliability of the end", "probability of ending", "share of answers that end",
            (), below)),
    )  # fmt: skip
    drawn = tuple(chart for chart in charts if chart is not None)
    if not drawn:
        return None
    table = tables.metric_table(results, tables.CALIBRATION, "calibration", "Calibration")
    return Section(
        "calibration",
        "Calibration",
        "Points on the diagonal mean that predicted probabilities match observed frequencies.",
        charts=drawn,
        tables=() if table is None else (table,),
        notes=("Bins of confidence hold equal numbers of tokens; bins of the end are positions. Means over seeds.",),
    )


def _diagram(results: Results, bins: Mapping[Arm, Sequence[Sequence[Bin]]], empty: Chart) -> Chart | None:
    """The chart with predicted against observed, means over seeds; None where an arm has fewer than two bins."""
    lines = {}
    for arm, by_seed in bins.items():
        points = list(zip(*by_seed, strict=False))
        if len(points) < 2:
            return None
        lines[arm] = Series(
            results.names[arm],
            tuple(float(np.mean([b.predicted for b in column])) for column in points),
            tuple(float(np.mean([b.observed for b in column])) for column in points),
        )
    ends = (0.0, 1.0)
    series = (Series("calibrated", ends, ends, is_reference=True), *tables.chart_lines(results, lines))
    return replace(empty, series=series, description=f"{empty.description}{tables.grey_note(results)}",
                   format_x="percent", format_y="percent")  # fmt: skip


def forgetting_section(results: Results) -> Section | None:
    """The second data file before and after training."""
    table = tables.metric_table(results, tables.FORGETTING, "forgetting", "Second data file")
    if table is None:
        return None
    return Section(
        "forgetting",
        "Forgetting",
        "The same rows before and after training: the less a loss moves the model, the less it forgets.",
        tables=(table,),
        notes=("KL(before || after) is the mean over the tokens of those rows, in nats.",),
    )
