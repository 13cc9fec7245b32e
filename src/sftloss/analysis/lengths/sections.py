"""Sections on output length: pure functions of a `LengthStudy`."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sftloss.analysis.lengths.forecast import BOUND, WITHIN, LengthForecast, LengthStudy, bin_sums
from sftloss.analysis.shared.shares import cell, estimate_cells, estimate_columns, estimate_series, without_empty
from sftloss.analysis.shared.words import WHERE_IN_THE_RANGE
from sftloss.document import Cell, Chart, Column, Section, Series, Table
from sftloss.numbers import Estimate, Floats, weighted_quantile
from sftloss.weights import EXAMPLE_MEAN, TOKEN_MEAN, Normalization
from sftloss.words import counted, number, percent

_FORECAST_COLUMNS = (
    Column("normalization", "normalization"),
    *estimate_columns("bound", f"mean length, {BOUND}", help="as if prompts left the length open"),
    Column("shift", f"shift {BOUND}", "percent", "against the data's mean"),
    *estimate_columns(
        "given_prompt", f"mean length, {WITHIN}", help="only answers to the same prompt are compared: understates"
    ),
    Column("where_seen", "shift where prompts repeat", "percent", "prompts with answers of several lengths"),
    Column("effective", "effective examples", "number", "Kish: that many equally weighted examples carry as much"),
    Column("given_task", "mean length, within tasks", "number"),
)
_FEW_PROMPTS = 30  # below, a sample often lacks what one prompt in ten asks for
_PERCENTILES = (0.1, 0.5, 0.9, 0.99)


def forecast_section(study: LengthStudy) -> Section:
    """The predicted mean of every normalization: its bound, what the data shows within prompts, how much counts."""
    unit, data = study.options.unit, study.data.value
    # where no prompt has two lengths, the number within prompts is the data's mean whatever the truth: not shown
    rows = [_forecast_row(one, data, is_seen=bool(study.answers.seen.any())) for one in study.forecasts]
    title = f"Predicted mean length ({unit})"
    table = without_empty(Table("length-forecast", title, _FORECAST_COLUMNS, tuple(rows)))
    ranges = [f"{rule.name} {study.range_of(rule).words()}" for rule in study.options.all_normalizations()]
    lead = f"The data's mean answer length is {number(data)} {unit}. Predicted: {'; '.join(ranges)}."
    if study.reason and np.ptp(study.answers.output):  # lengths that are all the same have no range
        lead += f" Where in its range a mean ends, this data cannot tell: {study.reason}."
    charts, notes = (means_chart(study),), (WHERE_IN_THE_RANGE,)
    return Section("forecast", "Predicted output length", lead, charts=charts, tables=(table,), notes=notes)


def _forecast_row(one: LengthForecast, data: float, *, is_seen: bool) -> tuple[Cell, ...]:
    within = one.within_prompt if is_seen and one.within_prompt is not None else Estimate(math.nan)
    rest = (one.where_seen, one.effective_examples, one.within_task)
    return (
        one.normalization.name,
        *estimate_cells(one.unconditional),
        cell(one.unconditional.value / data - 1.0),
        *estimate_cells(within),
        *map(cell, rest),
    )


def means_chart(study: LengthStudy) -> Chart:
    """The predicted means, at the bound and within prompts, beside the data's."""
    names = [one.normalization.name for one in study.forecasts]
    estimates = {BOUND: [one.unconditional for one in study.forecasts]}
    within = [one.within_prompt for one in study.forecasts if one.within_prompt is not None]
    if not study.reason and len(within) == len(names):
        estimates[WITHIN] = within
    data = Series("the data's mean", tuple(names), (cell(study.data.value),) * len(names), is_reference=True)
    series = (data, *(estimate_series(label, names, values) for label, values in estimates.items()))
    parts = "; ".join(
        f"{label}: {', '.join(f'{name} {number(one.value)}' for name, one in zip(names, values, strict=True))}"
        for label, values in estimates.items()
    )
    unit = study.options.unit
    described = f"The data's mean is {number(study.data.value)} {unit}. Predicted {parts}."
    title = "Predicted mean output length"
    return Chart("length-means", "point", title, "", unit, series, described, "category", format_x="text")


def evidence_section(study: LengthStudy) -> Section:
    """Whether the data can show a shift at all."""
    answers, output, share = study.answers, study.answers.output, study.seen_share
    low, high = np.quantile(output, (0.1, 0.9))
    distinct, ratio = len(np.unique(output)), float(high / low)
    rows: tuple[tuple[Cell, ...], ...] = (
        ("answers of known length", f"{len(output):,}", "30", len(output) >= 30),
        ("distinct lengths", f"{distinct:,}", "5", distinct >= 5),
        ("90th over 10th percentile of length", f"{ratio:.2f}", "1.5", ratio >= 1.5),
        ("answers whose prompt has answers of several lengths", percent(share.value), "some", bool(answers.seen.any())),
    )
    columns = (
        Column("check", "what is needed"),
        Column("found", "found"),
        Column("needed", "at least"),
        Column("enough", "enough"),
    )
    if study.reason:
        lead = f"This data cannot tell whether a normalization changes the output length: {study.reason}."
    else:
        ends = "" if share.interval is None else f" [{percent(share.interval.low)}, {percent(share.interval.high)}]"
        lead = f"{percent(share.value)}{ends} of the answers share their prompt with an answer of another length."
    table = Table("length-evidence", "What the data needs", columns, rows)
    return Section("evidence", "Is there enough data?", lead, tables=(table,), notes=_evidence_notes(study))


def _evidence_notes(study: LengthStudy) -> tuple[str, ...]:
    answers = study.answers
    notes = [
        "A normalization can shift the length only where the prompt leaves it open. A prompt with one answer shows "
        "nothing of that, and a few answers show a part: the mean within prompts understates the shift, and "
        "the mean at the bound overstates it."
    ]
    if answers.cut:
        notes.append(cut_note(answers.cut))
    count = 0 if answers.prompts is None else len(np.unique(answers.prompts))
    if 1 < count < _FEW_PROMPTS:
        notes.append(
            f"With {count} prompts the intervals are too narrow where few prompts ask for much longer answers: this "
            "data may have none of them."
        )
    if answers.prompts is None:
        notes.append("Prompts are not known here.")
    elif not answers.has_prompt.all():
        without = counted(int((~answers.has_prompt).sum()), "answer")
        notes.append(f"Without a prompt (plain text): {without}. They show no variation within a prompt.")
    elif int(answers.prompts.max()) == 0 and len(answers.output) > 1:
        notes.append("All answers have the same prompt, so the means within prompts and at the bound are the same.")
    return tuple(notes)


def cut_note(cut: int) -> str:
    """What answers of unknown length do to the numbers."""
    verb = "is" if cut == 1 else "are"
    return (
        f"{counted(cut, 'answer')} {verb} cut off by the maximal length, so the true length is not known and no number "
        "here counts them. All means are then lower than the truth, because it is long answers that are cut."
    )


def distribution_section(study: LengthStudy) -> Section:
    """The lengths of the data, and as each normalization reweights them."""
    unit = study.options.unit
    values, code = np.unique(study.answers.output, return_inverse=True)
    rules = study.options.all_normalizations()
    weights = {rule.name: bin_sums(code.ravel(), study.answers.weights(rule)) for rule in rules}
    quantiles = {name: weighted_quantile(values, of, _PERCENTILES) for name, of in weights.items()}
    columns = (
        Column("normalization", "normalization"),
        *(Column(f"p{round(100 * p)}", f"{round(100 * p)}th percentile", "number") for p in _PERCENTILES),
    )
    rows = tuple((name, *map(cell, of.tolist())) for name, of in quantiles.items())
    # the data, the example mean and the smallest micro-batch: more lines cannot be told apart
    drawn = (TOKEN_MEAN, EXAMPLE_MEAN, *[rule for rule in rules if rule.micro_batch is not None][:1])
    lines = {"data, and token mean" if rule == TOKEN_MEAN else rule.name: weights[rule.name] for rule in drawn}
    if not study.reason:
        lines[f"{EXAMPLE_MEAN.name}, {WITHIN}"] = bin_sums(code.ravel(), _within_prompt(study, EXAMPLE_MEAN))
    medians = ", ".join(f"{name} {number(float(of[1]))}" for name, of in quantiles.items())
    lead = f"At the bound, lengths are the data's, reweighted. Medians: {medians} {unit}."
    chart = _distribution_chart(values, lines, unit, f"Median lengths {BOUND}: {medians} {unit}.")
    table = Table("length-percentiles", f"Lengths {BOUND} ({unit})", columns, rows)
    return Section("distribution", "Distribution of lengths", lead, charts=(chart,), tables=(table,))


def _within_prompt(study: LengthStudy, rule: Normalization) -> Floats:
    """Weights that shift inside each prompt only: every prompt keeps its part of the examples."""
    weights, prompts = study.answers.weights(rule), study.answers.prompts
    assert prompts is not None
    return weights * (np.bincount(prompts, study.answers.counts) / np.bincount(prompts, weights))[prompts]


def _distribution_chart(values: Floats, lines: dict[str, Floats], unit: str, described: str) -> Chart:
    is_binned = len(values) > 40
    x, edges = values, values
    if is_binned:
        edges = np.unique(np.round(np.geomspace(values[0], values[-1], 33), 6))
        edges[0], edges[-1] = values[0], values[-1]
        x = np.sqrt(edges[1:] * edges[:-1])
    series = []
    for label, weights in lines.items():
        sums = np.histogram(values, edges, weights=weights)[0] if is_binned else weights
        series.append(Series(label, tuple(x.tolist()), tuple((sums / weights.sum()).tolist())))
    title, y = "Lengths of the data, and reweighted", "share of answers"
    chart = Chart("length-distribution", "line", title, unit, y, tuple(series), described, format_y="percent")
    return replace(chart, scale_x="log") if is_binned else chart


def method_section(study: LengthStudy) -> Section:
    """What is claimed and what is not."""
    notes = [
        "At its optimum, cross-entropy whose tokens have weight w(y) in sequence y learns the data reweighted by w(y). "
        "The mean length is then sum w T / sum w: for w = 1/T the harmonic mean.",
        "This is a statement about the optimum of cross-entropy, which other losses do not share. "
        + WHERE_IN_THE_RANGE,
        batches_note(study.options.batches),
        "T is the sum of an example's trained weights, over all its answers. Lengths are of single answers, and the "
        "prompt of an answer is everything before it, earlier answers too. Weights that the prefix determines (role, "
        "task, language) move nothing at the optimum; a row of weight 2 counts as two rows, in the data's mean too.",
        "Intervals: 95 %, studentized bootstrap over prompts: examples with the same first prompt are drawn together. "
        "There are none with fewer than 5 prompts. The weights are held fixed.",
    ]
    if study.options.unit != "tokens":
        notes.append(
            f"Lengths count {study.options.unit}; training divides by tokens. Shifts in percent are the same where all "
            "answers have as many tokens to each, which very short answers have not (their end is a token too). "
            "--tokenizer counts tokens."
        )
    lead = "No model was run: all numbers follow from the lengths of the answers."
    return Section("method", "Method", lead, notes=tuple(notes))


def batches_note(batches: str) -> str:
    """What the numbers for micro-batches assume about how these are put together."""
    return {
        "random": "An average of token means over micro-batches of k sequences gives a sequence the weight E[1/(T + "
        "the others)]. The others are assumed to be drawn at random; the expectation is an integral over the data's "
        "lengths. Over a whole step that is nearly, not exactly, the sum. With batches sorted by length the weight is "
        "nearly 1/T whatever k is: give --group-by-length. With packing it is constant: give --packing.",
        "by-length": "An average of token means over micro-batches of k sequences of similar length gives a sequence "
        "nearly the weight 1/T, as an average over examples does, because the others are as long. The weights here are "
        "those of transformers' length-grouped sampler, simulated on the data's own lengths.",
        "packed": "Packed rows hold nearly equally many tokens, so an average of token means over them gives every "
        "token the same weight: the lengths of the data stay.",
    }[batches]
