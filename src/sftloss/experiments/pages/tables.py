"""Metrics in tables and charts: which metrics there are, how their cells are filled, which arms a chart names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from sftloss.document import Column, Series, Table
from sftloss.experiments.experiment import Arm
from sftloss.experiments.metrics import Mean, pass_counts
from sftloss.experiments.verdicts.comparisons import Results, largest_value

NumberKind = Literal["text", "integer", "number", "percent", "ratio", "nats"]
Triple = tuple[float | None, float | None, float | None]
"""A value and the ends of its interval."""
EMPTY: Triple = (None, None, None)
WIDE = 6
"""With more arms than this, a table has arms as rows and a chart names only some of them."""
SEEDS_BAND = "lowest to highest seed"
_ROWS = 12  # a page of Markdown shows so many
_CHANGES = ("forget_change", "forget_accuracy")  # these may be negative


class ShownMetric(NamedTuple):
    """A metric in tables: its key in the results, column label, kind of number and help."""

    key: str
    label: str
    kind: NumberKind
    help: str = ""


LOSS = (
    ShownMetric("token_nll", "loss per token", "nats", "Mean of -log p over all held-out answer tokens."),
    ShownMetric("example_nll", "loss per example", "nats", "Mean over examples of the mean over their tokens."),
    ShownMetric("token_accuracy", "top-1 tokens", "percent", "Share of tokens that are the model's most probable."),
    ShownMetric("exact_match", "right answers", "percent", "Share of greedy answers that the task's checker accepts."),
    ShownMetric("entropy", "entropy", "nats", "Mean entropy of the next-token distribution at answer tokens."),
)
CALIBRATION = (
    ShownMetric("ece", "calibration error", "percent", "Expected calibration error of the top token, equal-mass bins."),
    ShownMetric("brier", "Brier score", "number", "Mean squared distance of the distribution to the target, 0 to 2."),
    ShownMetric(
        "eos_calibration", "expected ends per real end", "ratio",
        "Sum of the probabilities of ending, over the number of answers that end. Above 1: the model ends earlier.",
    ),
    ShownMetric("eos_ece", "end calibration error", "percent", "Calibration error of the end over positions."),
)  # fmt: skip
ANSWERS = (
    ShownMetric("length_ratio", "length / reference", "ratio", "Mean tokens of answers over those of references."),
    ShownMetric("length_ks", "length KS", "number", "Largest gap between the two cumulative length distributions."),
    ShownMetric("truncated", "cut off", "percent", "Share of answers that did not end within the limit."),
    ShownMetric("empty", "empty", "percent", "Share of answers without a word."),
    ShownMetric("repetition", "repetition", "percent", "Share of repeated 4-grams in an answer."),
)
_SAMPLES = (
    ShownMetric("sample_match", "right samples", "percent", "Share of sampled answers that are right."),
    ShownMetric("self_consistency", "commonest right", "percent", "Score of the most common sample of a prompt."),
    ShownMetric("unique", "unique samples", "percent", "Share of different answers among the samples of a prompt."),
    ShownMetric("distinct_1", "distinct-1", "percent", "Share of different tokens in the samples of a prompt."),
    ShownMetric("distinct_2", "distinct-2", "percent", "Share of different bigrams in the samples of a prompt."),
)
ABSTENTION = (
    ShownMetric("abstains_unknown", "says unknown where it is", "percent", "Higher is better."),
    ShownMetric("abstains_known", "says unknown where it is not", "percent", "Lower is better."),
)
FORGETTING = (
    ShownMetric("forget_nll", "loss per token", "nats", "Loss on the second data file after training."),
    ShownMetric("forget_change", "change of the loss", "nats", "Loss after training minus loss before."),
    ShownMetric("forget_accuracy", "change of top-1", "percent", "Share of top-1 tokens after training minus before."),
    ShownMetric("forget_kl", "KL from the start", "nats", "Mean over tokens of KL(before || after)."),
)


def sample_metrics(results: Results) -> tuple[ShownMetric, ...]:
    """Metrics of several samples of one prompt, with pass@n for every n that was evaluated."""
    passes = (
        ShownMetric(f"pass_at_{n}", f"pass@{n}", "percent", f"Probability that one of {n} samples is right.")
        for n in pass_counts(key for r in results.by_trial.values() for key in r.metrics)
        if n > 1
    )
    # of two samples either is the most common: its score is that of the samples
    is_pair = bool(results.first.lengths) and len(results.first.lengths[0]) == 2
    first, *rest = (one for one in _SAMPLES if not (is_pair and one.key == "self_consistency"))
    return (first, *passes, *rest)


def value_cells(results: Results, arm: Arm, one: ShownMetric, chosen: np.ndarray | None = None) -> Triple:
    """Value and 95 % interval of a metric; the range of the seeds where it is not a mean over examples."""
    mean = results.mean(arm, one.key, chosen)
    if mean is not None:
        end = largest_value(one.key, one.kind)
        return mean_cells(mean, (-end if one.key in _CHANGES else 0.0, end))
    metrics = (r.metrics.get(one.key) for r in results.of(arm)) if chosen is None else ()
    values = [value for metric in metrics if metric is not None and not np.isnan(value := metric.value())]
    return (sum(values) / len(values), min(values), max(values)) if values else EMPTY


def difference_cells(results: Results, arm: Arm, one: ShownMetric) -> Triple:
    """Arm minus first arm with its 95 % interval; in percentage points for shares."""
    end, scale = largest_value(one.key, one.kind), 100.0 if one.kind == "percent" else 1.0
    cells = mean_cells(results.difference(arm, one.key), (-end, end))
    value, low, high = (None if cell is None else scale * cell for cell in cells)
    return value, low, high


def mean_cells(mean: Mean | None, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Triple:
    """Value and interval, within the range of the metric; no interval where nothing varied."""
    if mean is None:
        return EMPTY
    interval = mean.interval() if mean.error else None
    return mean.value, *((None, None) if interval is None else np.clip((interval.low, interval.high), *bounds).tolist())


def triple_columns(key: str, label: str, kind: NumberKind = "number", help: str = "") -> tuple[Column, ...]:
    """Columns of a value and its interval, which a page shows as one."""
    return (Column(key, label, kind, help), Column(f"{key}_low", "low", kind), Column(f"{key}_high", "high", kind))


def metric_table(results: Results, shown: Sequence[ShownMetric], id: str, title: str) -> Table | None:
    """One row per arm and one column per metric that some arm has; None where there is none."""
    values = {one: [value_cells(results, arm, one) for arm in results.arms] for one in shown}
    values = {one: cells for one, cells in values.items() if any(cell[0] is not None for cell in cells)}
    if not values:
        return None
    rows = tuple(
        (results.names[arm], *(cell for cells in values.values() for cell in cells[i]))
        for i, arm in enumerate(results.arms)
    )
    columns = (column for one in values for column in triple_columns(*one))
    return Table(id, title, (Column("arm", "arm"), *columns), rows)


class Side(NamedTuple):
    """One side of a two-way table: the heading and the names."""

    heading: str
    names: Sequence[str]


def two_way_table(id: str, title: str, down: Side, across: Side, values: Sequence[Sequence[Triple]],
                  kind: NumberKind) -> Table:  # fmt: skip
    """A table of `values[i][j]`, row i and column j; transposed where it would be too wide."""
    if len(across.names) > WIDE:
        down, across, values = across, down, [list(column) for column in zip(*values, strict=True)]
    columns = (column for j, name in enumerate(across.names) for column in triple_columns(f"c{j}", name, kind))
    rows = (
        (name, *(cell for triple in line for cell in triple)) for name, line in zip(down.names, values, strict=True)
    )
    return Table(id, title, (Column("row", down.heading), *columns), tuple(rows))


def in_parts(table: Table) -> tuple[Table, ...]:
    """The table in parts that a page shows whole."""
    starts = range(0, len(table.rows), _ROWS)
    if len(starts) < 2:
        return (table,)
    return tuple(
        replace(table, id=f"{table.id}-{i}", title=f"{table.title} ({i} of {len(starts)})",
                rows=table.rows[start : start + _ROWS])
        for i, start in enumerate(starts, 1)
    )  # fmt: skip


def named_arms(results: Results) -> tuple[Arm, ...]:
    """The arms that charts and sentences name: all, or of many the first, the best and the worst by held-out loss."""
    if len(results.arms) <= WIDE:
        return results.arms
    losses = {arm: mean.value for arm in results.arms if (mean := results.mean(arm, "token_nll")) is not None}
    by_loss = sorted(losses, key=losses.__getitem__)
    chosen = (results.arms[0], *by_loss[:1], *by_loss[-1:])
    return tuple(arm for arm in results.arms if arm in chosen)


def seeds_line(label: str, columns: Mapping[int, Sequence[float]]) -> Series | None:
    """A line over steps: the mean over seeds, and the band from the lowest to the highest; None without a step."""
    if not columns:
        return None
    values = columns.values()
    means = tuple(sum(column) / len(column) for column in values)
    band = (tuple(map(min, values)), tuple(map(max, values))) if max(map(len, values)) > 1 else (None, None)
    return Series(label, tuple(map(float, columns)), means, *band)


def chart_lines(results: Results, lines: Mapping[Arm, Series]) -> tuple[Series, ...]:
    """The lines of a chart: those of :func:`named_arms` in colour, the others thin and grey."""
    chosen = named_arms(results)
    rest = (replace(line, is_faint=True) for arm, line in lines.items() if arm not in chosen)
    return (*(lines[arm] for arm in chosen if arm in lines), *rest)


def grey_note(results: Results) -> str:
    """A sentence about the lines without a name; empty where all have one."""
    rest = len(results.arms) - len(named_arms(results))
    return f" Named: the first arm, the best and the worst by held-out loss; grey: {rest} others." if rest else ""
