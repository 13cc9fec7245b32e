"""Sections of a comparison's report: verdicts with their forest plots, all metrics, learning curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sftloss.analysis.document import Cell, Chart, Column, Section, Series, Table
from sftloss.experiments._findings import Names
from sftloss.experiments._paired import Mean
from sftloss.experiments._plan import Arm
from sftloss.experiments._verdicts import HEADLINE, Comparison, Measure, Results
from sftloss.experiments._words import listed

Kind = Literal["text", "integer", "number", "percent", "ratio", "nats"]


@dataclass(frozen=True)
class Shown:
    """A metric as tables show it."""

    key: str
    label: str
    kind: Kind
    help: str = ""


LOSS = (
    Shown("token_nll", "loss per token", "nats", "Mean of -log p over all held-out answer tokens."),
    Shown("example_nll", "loss per example", "nats", "Mean over examples of the mean over their tokens."),
    Shown("token_accuracy", "top-1 tokens", "percent", "Share of tokens that are the model's most probable."),
    Shown("exact_match", "right answers", "percent", "Share of greedy answers that the checker of their task accepts."),
    Shown("entropy", "entropy", "nats", "Mean entropy of the next-token distribution at answer tokens."),
)
CALIBRATION = (
    Shown("ece", "calibration error", "percent", "Expected calibration error of the top token, equal-mass bins."),
    Shown("brier", "Brier score", "number", "Mean squared distance of the distribution from the target, 0 to 2."),
    Shown("eos_calibration", "ends foreseen / come", "ratio", "Sum of the probabilities of ending, over the ends."),
    Shown("eos_ece", "end calibration error", "percent", "Calibration error of the end over positions in the answer."),
)
ANSWERS = (
    Shown("length_ratio", "length / reference", "ratio", "Mean tokens of sampled answers over those of references."),
    Shown("length_ks", "length KS", "number", "Largest gap between the two cumulative length distributions."),
    Shown("truncated", "cut off", "percent", "Share of sampled answers that did not end within the limit."),
    Shown("empty", "empty", "percent", "Share of sampled answers without a word."),
    Shown("repetition", "repetition", "percent", "Share of repeated 4-grams in sampled answers."),
)
SAMPLES = (
    Shown("sample_match", "right samples", "percent", "Share of sampled answers that are right."),
    Shown("pass_at_2", "pass@2", "percent", "Probability that one of two samples is right."),
    Shown("pass_at_4", "pass@4", "percent", "Probability that one of four samples is right."),
    Shown("pass_at_8", "pass@8", "percent", "Probability that one of eight samples is right."),
    Shown("self_consistency", "commonest right", "percent", "Score of the commonest sample of a prompt."),
    Shown("unique", "unique samples", "percent", "Different answers among the samples of a prompt."),
    Shown("distinct_1", "distinct-1", "percent", "Different tokens among those of a prompt's samples."),
    Shown("distinct_2", "distinct-2", "percent", "Different bigrams among those of a prompt's samples."),
)
UNKNOWN = (
    Shown("abstains_unknown", "says unknown where it is", "percent", "Higher is better."),
    Shown("abstains_known", "says unknown where it is not", "percent", "Lower is better."),
)
_BOUNDS = {
    one.key: (0.0, 1.0 if one.kind == "percent" else math.inf)
    for one in (*LOSS, *CALIBRATION, *ANSWERS, *SAMPLES, *UNKNOWN)
}
FORGETTING = (
    Shown("forget_nll", "loss per token", "nats", "Of the second data file, after training."),
    Shown("forget_change", "change of the loss", "nats", "After training less before it."),
    Shown("forget_accuracy", "change of top-1", "percent", "Share of top-1 tokens, after less before."),
    Shown("forget_kl", "KL from the start", "nats", "Mean over tokens of KL(before || after)."),
)


def value_of(results: Results, arm: Arm, key: str, chosen: np.ndarray | None = None) -> tuple[Cell, Cell, Cell]:
    """Value and 95 % interval of a metric over seeds and examples; where it is no mean, the range of the seeds."""
    mean = results.mean(arm, key, chosen)
    if mean is not None:
        return cells(mean if mean.error else replace(mean, parts=()), bounds=_BOUNDS.get(key))
    if chosen is not None:
        return None, None, None
    found = [{**r.metrics, **r.forgetting}.get(key) for r in results.of(arm)]
    values = [m.value() for m in found if m is not None]
    values = [v for v in values if not math.isnan(v)]
    if not values:
        return None, None, None
    return sum(values) / len(values), min(values), max(values)


def cells(
    mean: Mean | None, level: float = 0.95, *, bounds: tuple[float, float] | None = None
) -> tuple[Cell, Cell, Cell]:
    """Value, low and high; an interval is cut where the metric itself ends."""
    if mean is None:
        return None, None, None
    found = mean.interval(level)
    if found is None:
        return mean.value, None, None
    least, most = bounds or (-math.inf, math.inf)
    return mean.value, max(found.low, least), min(found.high, most)


def columns_of(shown: Sequence[Shown]) -> tuple[Column, ...]:
    """A value and its two bounds for each metric, as :class:`Table` folds them."""
    return tuple(
        column
        for one in shown
        for column in (
            Column(one.key, one.label, one.kind, one.help),
            Column(f"{one.key}_low", "low", one.kind),
            Column(f"{one.key}_high", "high", one.kind),
        )
    )


def metric_table(results: Results, names: Names, shown: Sequence[Shown], title: tuple[str, str]) -> Table | None:
    """One row an arm; metrics that no arm has are left out, and no table where nothing is left."""
    values = {one: [value_of(results, arm, one.key) for arm in results.arms] for one in shown}
    there = [one for one in shown if any(value[0] is not None for value in values[one])]
    if not there:
        return None
    rows = tuple(
        (names[arm], *(cell for one in there for cell in values[one][i])) for i, arm in enumerate(results.arms)
    )
    return Table(title[0], title[1], (Column("arm", "arm"), *columns_of(there)), rows)


def verdicts(results: Results, compared: Sequence[Comparison], names: Names) -> Section:
    """Every comparison that was made, as a forest plot a measure and as a table."""
    measures = tuple(dict.fromkeys(one.measure for one in compared))
    shown = sum(one.is_different for one in compared)
    level = compared[0].level if compared else 0.95
    reference = names[results.arms[0]]
    lead = (
        f"{shown} of {len(compared)} comparisons with {reference} show a difference. Each is paired: the same "
        f"held-out examples, the same seeds. Intervals of {100 * level:.2f}% hold all together at 95%."
    )
    if not compared:
        lead = "There is nothing to compare."
    charts = tuple(_forest(measure, compared, names, reference) for measure in measures)
    return Section("comparison-verdicts", "Differences from the first arm", lead, charts=charts,
                   tables=(_verdict_table(compared, names),) if compared else ())  # fmt: skip


def _forest(measure: Measure, compared: Sequence[Comparison], names: Names, reference: str) -> Chart:
    ours = [one for one in compared if one.measure == measure]
    low_high = [one.difference.interval(one.level) for one in ours]
    arms = tuple(names[one.arm] for one in ours)
    told = "; ".join(f"{names[one.arm]} {one.difference.value:+.3g}" for one in ours)
    better = f" ({measure.better} is better)" if measure.better else ""
    series = Series(
        "difference",
        arms,
        tuple(one.difference.value for one in ours),
        tuple(None if b is None else b.low for b in low_high),
        tuple(None if b is None else b.high for b in low_high),
    )
    zero = Series("no difference", arms, (0.0,) * len(arms), is_reference=True)
    kind = {"percent": "percent", "nats": "nats"}.get(measure.kind, "number")
    return Chart(
        f"forest-{measure.id}",
        "point",
        f"{measure.name[0].upper()}{measure.name[1:]}",
        f"against {reference}",
        f"difference{better}",
        (series, zero),
        f"Differences from {reference}: {told}.",
        format_y=kind,
    )


def _verdict_table(compared: Sequence[Comparison], names: Names) -> Table:
    rows = []
    for one in compared:
        value, low, high = cells(one.difference, one.level)
        judged = "different" if one.is_different else "no difference shown" if one.is_settled else "too few seeds"
        least = one.difference.detectable(one.level)
        rows.append((one.measure.name, names[one.arm], value, low, high, judged, least))
    columns = (
        Column("measure", "measure"),
        Column("arm", "arm"),
        Column("difference", "difference", "number", "Arm minus first arm."),
        Column("difference_low", "low", "number"),
        Column("difference_high", "high", "number"),
        Column("verdict", "verdict"),
        Column("detectable", "detectable", "number", "Smallest true difference found in 80% of such experiments."),
    )
    return Table("comparisons", "All comparisons", columns, tuple(rows))


def metrics(results: Results, names: Names) -> Section:
    """Common metrics of every arm, each with its interval; never an arm's own training loss."""
    tables = (
        metric_table(results, names, LOSS, ("metrics-loss", "Loss and right answers")),
        metric_table(results, names, ANSWERS, ("metrics-answers", "Length and form of sampled answers")),
        metric_table(results, names, SAMPLES, ("metrics-samples", "Several samples of one prompt")),
        metric_table(results, names, UNKNOWN, ("metrics-unknown", "Questions without an answer")),
        _further(results, names),
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


def _further(results: Results, names: Names) -> Table | None:
    """Paired differences of what no verdict is about; those that are no means over examples come first."""
    judged = {measure.key for measure in HEADLINE}
    shown = [one for one in (*CALIBRATION, *ANSWERS, *SAMPLES, *UNKNOWN, *LOSS) if one.key not in judged]
    shown.sort(key=lambda one: one.key not in ("ece", "eos_ece", "length_ks"))
    rows = tuple(
        (one.label, names[arm], *cells(mean if mean.error else replace(mean, parts=())))
        for one in shown
        for arm in results.arms[1:]
        if (mean := results.difference(arm, one.key)) is not None
    )
    columns = (
        Column("measure", "measure"),
        Column("arm", "arm"),
        Column("difference", "difference", "number", "Arm minus first arm, same examples and seeds."),
        Column("difference_low", "low", "number"),
        Column("difference_high", "high", "number"),
    )
    return Table("metrics-differences", "Further differences from the first arm", columns, rows) if rows else None


def curves(results: Results, names: Names) -> Section | None:
    """Held-out loss during training: mean over seeds, lowest and highest seed as the band."""
    series, ends = [], []
    for arm in results.arms:
        by_seed = [{p.step: p.nll for p in r.curve} for r in results.of(arm)]
        steps = sorted(set.intersection(*(set(points) for points in by_seed))) if by_seed else []
        if len(steps) < 2:
            return None
        columns = [[points[step] for points in by_seed] for step in steps]
        has_band = len(by_seed) > 1
        means = tuple(sum(column) / len(column) for column in columns)
        series.append(
            Series(
                names[arm],
                tuple(map(float, steps)),
                means,
                tuple(map(min, columns)) if has_band else None,
                tuple(map(max, columns)) if has_band else None,
            )
        )
        ends.append(f"{names[arm]} {means[0]:.2f} to {means[-1]:.2f}")
    chart = Chart(
        "curves", "line", "Held-out loss during training", "optimizer step", "loss per token, nats", tuple(series),
        f"Cross-entropy per token: {listed(tuple(ends))}.", format_x="integer", format_y="nats",
    )  # fmt: skip
    return Section(
        "curves",
        "Learning curves",
        f"At equal steps and equal tokens: {listed(tuple(ends))}.",
        charts=(chart,),
        notes=("Cross-entropy of the tokens of the first 96 held-out rows, whatever was trained. Lines are means over "
               "seeds, bands reach from the lowest to the highest seed.",),
    )  # fmt: skip
