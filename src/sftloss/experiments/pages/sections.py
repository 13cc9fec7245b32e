"""Metrics as the sections of a comparison show them: which, in which tables, in which lines of a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sftloss.document import Cell, Column, Series, Table
from sftloss.experiments.experiment import Arm
from sftloss.experiments.metrics import pass_counts
from sftloss.experiments.metrics.differences import Mean
from sftloss.experiments.verdicts.findings import Names
from sftloss.experiments.verdicts.verdicts import Results, clipped, most

Kind = Literal["text", "integer", "number", "percent", "ratio", "nats"]
Triple = tuple[Cell, Cell, Cell]
"""A value and its interval."""
Axis = tuple[str, Sequence[str]]
"""What one side of a grid lists, and the names there."""
NOTHING: Triple = (None, None, None)
WIDE = 6
"""More arms than this are too many columns, and too many lines of a chart."""
_ROWS = 12  # as many as a page of Markdown shows
_CHANGES = ("forget_change", "forget_accuracy")


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
    Shown(
        "eos_calibration",
        "expected ends per real end",
        "ratio",
        "Probabilities of ending, summed, over the answers that end. Above 1 the model wants to stop earlier.",
    ),
    Shown("eos_ece", "end calibration error", "percent", "Calibration error of the end over positions in the answer."),
)
ANSWERS = (
    Shown("length_ratio", "length / reference", "ratio", "Mean tokens of generated answers over those of references."),
    Shown("length_ks", "length KS", "number", "Largest gap between the two cumulative length distributions."),
    Shown("truncated", "cut off", "percent", "Share of answers that did not end within the limit."),
    Shown("empty", "empty", "percent", "Share of answers without a word."),
    Shown("repetition", "repetition", "percent", "Share of repeated 4-grams in an answer."),
)
_SAMPLES = (
    Shown("sample_match", "right samples", "percent", "Share of sampled answers that are right."),
    Shown("self_consistency", "commonest right", "percent", "Score of the commonest sample of a prompt."),
    Shown("unique", "unique samples", "percent", "Different answers among the samples of a prompt."),
    Shown("distinct_1", "distinct-1", "percent", "Different tokens among those of a prompt's samples."),
    Shown("distinct_2", "distinct-2", "percent", "Different bigrams among those of a prompt's samples."),
)
UNKNOWN = (
    Shown("abstains_unknown", "says unknown where it is", "percent", "Higher is better."),
    Shown("abstains_known", "says unknown where it is not", "percent", "Lower is better."),
)
FORGETTING = (
    Shown("forget_nll", "loss per token", "nats", "Of the second data file, after training."),
    Shown("forget_change", "change of the loss", "nats", "After training less before it."),
    Shown("forget_accuracy", "change of top-1", "percent", "Share of top-1 tokens, after less before."),
    Shown("forget_kl", "KL from the start", "nats", "Mean over tokens of KL(before || after)."),
)


def samples_of(results: Results) -> tuple[Shown, ...]:
    """What several samples of one prompt have, pass@n for every n that was evaluated."""
    passes = (
        Shown(f"pass_at_{n}", f"pass@{n}", "percent", f"Probability that one of {n} samples is right.")
        for n in pass_counts(key for r in results.by_trial.values() for key in r.metrics)
        if n > 1
    )
    # the commonest of two samples is either: its score is that of the samples
    is_pair = bool(results.first.lengths) and len(results.first.lengths[0]) == 2
    first, *rest = (one for one in _SAMPLES if not (is_pair and one.key == "self_consistency"))
    return (first, *passes, *rest)


def value_of(results: Results, arm: Arm, one: Shown, chosen: np.ndarray | None = None) -> Triple:
    """Value and 95 % interval of a metric over seeds and examples; where it is no mean, the range of the seeds."""
    mean = results.mean(arm, one.key, chosen)
    if mean is not None:
        end = most(one.key, one.kind)
        return cells(mean, (-end if one.key in _CHANGES else 0.0, end))
    if chosen is not None:
        return NOTHING
    found = [{**r.metrics, **r.forgetting}.get(one.key) for r in results.of(arm)]
    values = [value for m in found if m is not None and not np.isnan(value := m.value())]
    return (sum(values) / len(values), min(values), max(values)) if values else NOTHING


def difference_of(results: Results, arm: Arm, one: Shown) -> Triple:
    """Arm minus first arm with its 95 % interval; of shares in percentage points, as :func:`unit_of` says."""
    mean, end = results.difference(arm, one.key), most(one.key, one.kind)
    factor = 100.0 if one.kind == "percent" else 1.0
    return tuple(None if v is None else factor * v for v in cells(mean, (-end, end)))  # type: ignore[return-value, operator]


def cells(mean: Mean | None, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Triple:
    """Value, low and high, cut where the metric itself ends; no interval where nothing varied."""
    if mean is None:
        return NOTHING
    found = mean.interval() if mean.error else None
    if found is None:
        return mean.value, None, None
    found = clipped(found, *bounds)
    return mean.value, found.low, found.high


def folded(key: str, label: str, kind: Kind = "number", help: str = "") -> tuple[Column, ...]:
    """A value and its bounds, which a page shows as one."""
    return (Column(key, label, kind, help), Column(f"{key}_low", "low", kind), Column(f"{key}_high", "high", kind))


def metric_table(results: Results, names: Names, shown: Sequence[Shown], title: tuple[str, str]) -> Table | None:
    """One row an arm; metrics that no arm has are left out, and no table where nothing is left."""
    values = {one: [value_of(results, arm, one) for arm in results.arms] for one in shown}
    there = [one for one in shown if any(value[0] is not None for value in values[one])]
    if not there:
        return None
    rows = tuple(
        (names[arm], *(cell for one in there for cell in values[one][i])) for i, arm in enumerate(results.arms)
    )
    columns = (column for one in there for column in folded(one.key, one.label, one.kind, one.help))
    return Table(title[0], title[1], (Column("arm", "arm"), *columns), rows)


def grid(title: tuple[str, str], down: Axis, across: Axis, values: Sequence[Sequence[Triple]], kind: Kind) -> Table:
    """A table of two ways, `values[i][j]` of `down` i and `across` j; turned where it would be too wide."""
    if len(across[1]) > WIDE:
        down, across, values = across, down, [list(column) for column in zip(*values, strict=True)]
    columns = (column for j, name in enumerate(across[1]) for column in folded(f"c{j}", name, kind))
    rows = ((name, *(cell for triple in line for cell in triple)) for name, line in zip(down[1], values, strict=True))
    return Table(title[0], title[1], (Column("row", down[0]), *columns), tuple(rows))


def parts(table: Table) -> tuple[Table, ...]:
    """The table in pieces that a page shows whole."""
    starts = range(0, len(table.rows), _ROWS)
    if len(starts) < 2:
        return (table,)
    return tuple(
        replace(table, id=f"{table.id}-{i}", title=f"{table.title} ({i} of {len(starts)})",
                rows=table.rows[start : start + _ROWS])
        for i, start in enumerate(starts, 1)
    )  # fmt: skip


def outstanding(results: Results) -> tuple[Arm, ...]:
    """The arms that a chart and a sentence can name: all, or of many the first, the best and the worst by loss."""
    if len(results.arms) <= WIDE:
        return results.arms
    found = {arm: mean.value for arm in results.arms if (mean := results.mean(arm, "token_nll")) is not None}
    by_loss = sorted(found, key=found.__getitem__)
    chosen = (results.arms[0], *by_loss[:1], *by_loss[-1:])
    return tuple(arm for arm in results.arms if arm in chosen)


def in_view(results: Results, lines: Mapping[Arm, Series]) -> tuple[Series, ...]:
    """The lines of a chart: those of :func:`outstanding` arms in colour, the others thin and grey."""
    chosen = outstanding(results)
    rest = (replace(line, is_faint=True) for arm, line in lines.items() if arm not in chosen)
    return (*(lines[arm] for arm in chosen if arm in lines), *rest)


def grey(results: Results) -> str:
    """A sentence on the lines that have no name."""
    rest = len(results.arms) - len(outstanding(results))
    return f" Named: the first arm, the best and the worst by held-out loss; grey: {rest} others." if rest else ""
