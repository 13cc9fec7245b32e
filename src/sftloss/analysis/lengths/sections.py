"""Sections on output length: pure functions of a `LengthStudy`."""

from __future__ import annotations

import math

import numpy as np

from sftloss import numbers
from sftloss.analysis.lengths.forecast import STEEPEST, LengthForecast, bin_sums, solve
from sftloss.analysis.lengths.study import LengthStudy
from sftloss.analysis.shared.shares import bounds, cell
from sftloss.document import Cell, Chart, Column, Section, Series, Table
from sftloss.numbers import Floats
from sftloss.weights import EXAMPLE_MEAN, TOKEN_MEAN, Normalization
from sftloss.words import number, percent

_BOUND, _GIVEN = "if the prompt says nothing", "given the prompt"


def forecast_section(study: LengthStudy) -> Section:
    """The predicted mean of every normalization: the bound, what the data shows given the prompt, how much counts."""
    unit, data = study.options.unit, study.data.value
    columns = (
        Column("normalization", "normalization"),
        Column(
            "bound",
            _BOUND,
            "number",
            "mean length learned where the prompt says nothing about length; for example mean a bound",
        ),
        Column("low", "low", "number", "end of the 95 % interval"),
        Column("high", "high", "number", "end of the 95 % interval"),
        Column("shift", "shift, if the prompt says nothing", "percent", "against the data's mean"),
        Column("given_prompt", _GIVEN, "number", "only answers to the same prompt differ; understates"),
        Column("given_low", "low, given the prompt", "number", "end of the 95 % interval"),
        Column("given_high", "high, given the prompt", "number", "end of the 95 % interval"),
        Column("where_seen", "shift where prompts repeat", "percent", "prompts with answers of several lengths"),
        Column("effective", "effective examples", "number", "Kish: as many equally weighted examples"),
        Column("given_task", "given the task", "number"),
    )
    # where no prompt has two lengths, the number given the prompt is the data's mean whatever the truth: not shown
    rows = [_forecast_row(one, data, is_seen=bool(study.answers.seen.any())) for one in study.forecasts]
    shown = [at for at in range(len(columns)) if any(row[at] is not None for row in rows)]
    kept = tuple(tuple(row[at] for at in shown) for row in rows)
    title = f"Predicted mean length ({unit})"
    table = Table("length-forecast", title, tuple(columns[at] for at in shown), kept)
    lead = f"The data's mean is {number(data)} {unit}. "
    if study.reason:
        lead += "Below is what each normalization shifts it to if prompts say nothing about length; "
        lead += "whether it does, the data cannot tell: "
        lead += f"{study.reason}."
    else:
        lead += "Of a shift, the first number holds if prompts say nothing about length; "
        lead += "the one given the prompt is what this data shows."
    return Section("forecast", "Predicted output length", lead, charts=(_forest(study),), tables=(table,))


def _forecast_row(one: LengthForecast, data: float, *, is_seen: bool) -> tuple[Cell, ...]:
    within = one.within_prompt if is_seen else None
    values = (one.unconditional.value, *bounds(one.unconditional.interval), one.unconditional.value / data - 1.0)
    given = (None, None, None) if within is None else (within.value, *bounds(within.interval))
    rest = (one.where_seen, one.effective_examples, one.within_task)
    return (one.normalization.name, *(cell(value) for value in (*values, *given, *rest)))


def _forest(study: LengthStudy) -> Chart:
    names = tuple(one.normalization.name for one in study.forecasts)
    found = [(_BOUND, [one.unconditional for one in study.forecasts])]
    within = [one.within_prompt for one in study.forecasts if one.within_prompt is not None]
    if not study.reason and len(within) == len(names):
        found.append((_GIVEN, within))
    series = [Series("the data's mean", names, (cell(study.data.value),) * len(names), is_reference=True)]
    for label, estimates in found:
        ends = [bounds(estimate.interval) for estimate in estimates]
        y = tuple(cell(estimate.value) for estimate in estimates)
        series.append(Series(label, names, y, tuple(low for low, _ in ends), tuple(high for _, high in ends)))
    said = "; ".join(
        f"{label}: " + ", ".join(f"{name} {number(e.value)}" for name, e in zip(names, estimates, strict=True))
        for label, estimates in found
    )
    described = f"The data's mean is {number(study.data.value)} {study.options.unit}. Predicted {said}."
    title, unit = "Predicted mean output length", study.options.unit
    return Chart("length-means", "point", title, "", unit, tuple(series), described, "category", format_x="text")


def evidence_section(study: LengthStudy) -> Section:
    """Whether the data can show a tilt at all."""
    answers, output = study.answers, study.answers.output
    low, high = np.quantile(output, (0.1, 0.9))
    distinct, share = len(np.unique(output)), study.seen_share
    checks: list[tuple[Cell, ...]] = [
        ("answers of known length", f"{len(output):,}", "30", len(output) >= 30),
        ("distinct lengths", f"{distinct:,}", "5", distinct >= 5),
        ("90th over 10th percentile of length", f"{high / low:.2f}", "1.5", bool(high / low >= 1.5)),
        ("answers whose prompt has answers of several lengths", percent(share.value), "some", bool(answers.seen.any())),
    ]
    columns = (
        Column("check", "what is needed"),
        Column("found", "found"),
        Column("needed", "at least"),
        Column("enough", "enough"),
    )
    if study.reason:
        lead = f"This data cannot tell whether a normalization shifts output length: {study.reason}."
    else:
        spread = "" if share.interval is None else f" [{percent(share.interval.low)}, {percent(share.interval.high)}]"
        lead = f"{percent(share.value)}{spread} of the answers share their prompt with an answer of another length."
    notes = [
        "Only variation of length given the prompt can be tilted. A prompt with one answer shows none of it, and a few "
        "answers show a part: the number given the prompt understates, the other overstates."
    ]
    if answers.cut:
        notes.append(
            f"{answers.cut:,} answers are cut off by the maximal length: how long they are is not known, so they are "
            "left out of all lengths on this page. The data's mean and the predicted ones are then lower than the "
            "truth, because it is long answers that are cut."
        )
    if answers.prompts is None:
        notes.append("Prompts are not known here.")
    elif not answers.has_prompt.all():
        without = int((~answers.has_prompt).sum())
        notes.append(f"{without:,} answers have no prompt, as plain text has none: they show no variation given one.")
    elif int(answers.prompts.max()) == 0 and len(output) > 1:
        notes.append("All answers have one prompt, which says nothing about length: both numbers are the same.")
    table = Table("length-evidence", "What it takes to tell", columns, tuple(checks))
    return Section("evidence", "Can this data tell?", lead, tables=(table,), notes=tuple(notes))


def distribution_section(study: LengthStudy) -> Section:
    """The lengths of the data, and as each normalization reweights them."""
    unit = study.options.unit
    values, code = np.unique(study.answers.output, return_inverse=True)
    rules = study.options.all_normalizations()
    held = {rule.name: bin_sums(code.ravel(), study.answers.weights(rule)) for rule in rules}
    percentiles = (0.1, 0.5, 0.9, 0.99)
    columns = (
        Column("normalization", "normalization"),
        *(Column(f"p{round(100 * p)}", f"{round(100 * p)}th percentile", "number") for p in percentiles),
    )
    rows = tuple(
        (name, *(cell(float(v)) for v in numbers.weighted_quantile(values, weights, percentiles)))
        for name, weights in held.items()
    )
    drawn = _drawn(rules)
    lines = [(_label(rule), held[rule.name]) for rule in drawn]
    within = EXAMPLE_MEAN if not study.reason else None
    if within is not None:
        lines.append((f"{within.name}, {_GIVEN}", bin_sums(code.ravel(), _given_prompt(study, within))))
    medians = ", ".join(f"{row[0]} {number(float(row[2] or 0))}" for row in rows)
    chart = _distribution(values, lines, unit, f"Median lengths, {_BOUND}: {medians} {unit}.")
    lead = (
        f"If the prompt says nothing about length, the lengths learned are the data's, reweighted. Medians: {medians}."
    )
    table = Table("length-percentiles", f"Lengths, {_BOUND} ({unit})", columns, rows)
    return Section("distribution", "Distribution of lengths", lead, charts=(chart,), tables=(table,))


def _drawn(rules: tuple[Normalization, ...]) -> tuple[Normalization, ...]:
    """The data, the example mean, and the smallest micro-batch: more lines are a thicket."""
    small = [rule for rule in rules if rule.micro_batch is not None][:1]
    return (TOKEN_MEAN, EXAMPLE_MEAN, *small)


def _label(rule: Normalization) -> str:
    return "data, and token mean" if rule == TOKEN_MEAN else rule.name


def _given_prompt(study: LengthStudy, rule: Normalization) -> Floats:
    """Weights that tilt inside each prompt only: every prompt keeps its part of the examples."""
    weights, prompts = study.answers.weights(rule), study.answers.prompts
    assert prompts is not None
    return weights * (np.bincount(prompts) / np.bincount(prompts, weights))[prompts]


def _distribution(values: Floats, lines: list[tuple[str, Floats]], unit: str, described: str) -> Chart:
    if len(values) <= 40:
        x, edges = values, None
    else:
        edges = np.unique(np.round(np.geomspace(values[0], values[-1], 33), 6))
        edges[0], edges[-1] = values[0], values[-1]
        x = np.sqrt(edges[1:] * edges[:-1])
    series = []
    for label, weights in lines:
        held = weights if edges is None else np.histogram(values, edges, weights=weights)[0]
        series.append(Series(label, tuple(x.tolist()), tuple((held / weights.sum()).tolist())))
    title, y = "Lengths of the data, and as learned", "share of answers"
    scale = "linear" if edges is None else "log"
    return Chart(
        "length-distribution",
        "line",
        title,
        unit,
        y,
        tuple(series),
        described,
        scale_x="log" if scale == "log" else "linear",
        format_y="percent",
    )


def target_section(study: LengthStudy) -> Section:
    """Which exponent teaches the wanted mean: with the prompt telling nothing, and given the prompt."""
    target = study.options.target_mean
    assert target is not None
    asked: list[tuple[str, np.ndarray | None]] = [(_BOUND, None)]
    if study.answers.seen.any():
        asked.append((_GIVEN, study.answers.prompts))
    rows: list[tuple[Cell, ...]] = []
    reached = []
    for name, groups in asked:
        low, high = _reach(study, groups)
        alpha = solve(study.answers, target, groups)
        rows.append((name, cell(alpha), cell(low), cell(high), _verdict(alpha)))
        reached.append(f"{name} " + ("no exponent reaches it" if math.isnan(alpha) else f"alpha {number(alpha)}"))
    columns = (
        Column("assumption", "assumption"),
        Column("alpha", "exponent alpha", "number", "divide by T^alpha; below 0 favours long answers"),
        Column("shortest", "shortest reachable", "number", "the limit of ever larger alpha"),
        Column("longest", "longest reachable", "number", "the limit of ever smaller alpha"),
        Column("verdict", "verdict"),
    )
    lead = (
        f"For a mean of {number(target)} {study.options.unit} (data {number(study.data.value)}): {'; '.join(reached)}."
    )
    if study.reason:
        lead += f" Whether the exponent does it here the data cannot tell: {study.reason}."
    title = f"Exponent for a mean of {number(target)} {study.options.unit}"
    notes = ("Large exponents leave few effective examples; look at generated lengths after training.",)
    return Section(
        "target", "A wanted length", lead, tables=(Table("length-target", title, columns, tuple(rows)),), notes=notes
    )


def _verdict(alpha: float) -> str:
    if math.isnan(alpha):
        return f"no exponent within {STEEPEST:g} of 0 reaches it"
    if abs(alpha) < 0.005:
        return "leave it as it is: the token mean"
    return f"--normalization {alpha:.2f}"


def _reach(study: LengthStudy, groups: np.ndarray | None) -> tuple[float, float]:
    """The least and the greatest mean that reweighting inside groups can give."""
    output = study.answers.output
    if groups is None:
        return float(output.min()), float(output.max())
    low, high = np.full(int(groups.max()) + 1, np.inf), np.zeros(int(groups.max()) + 1)
    np.minimum.at(low, groups, output)
    np.maximum.at(high, groups, output)
    return float(low[groups].mean()), float(high[groups].mean())


def method_section(study: LengthStudy) -> Section:
    """What is claimed and what is not."""
    notes = [
        "Cross-entropy whose tokens have weight w(y) in sequence y is least, over all distributions, at the data "
        "reweighted by w(y). Its mean length is sum w T / sum w: for w = 1/T the harmonic mean.",
        "It is a statement about the optimum of cross-entropy. A short fine-tuning moves less, a model may not be able "
        "to represent it, other losses have other optima, and decoding changes length again.",
        "Averages of token means over k sequences weigh a sequence by E[1/(T + the others)], integrated exactly over "
        "the data's own lengths. Over a whole step that is nearly, not exactly, the sum.",
        "T is the sum of an example's trained weights, all of its answers together. Lengths are of single answers, and "
        "the prompt of an answer is everything before it, earlier answers too. Weights that the prefix determines "
        "(role, task, language) move nothing at the optimum; weights of whole rows do and are not in these numbers.",
        "Intervals: 95 %, percentile bootstrap over examples, those with the same first prompt together (each by "
        "itself where there are fewer than 30), with the weights held fixed.",
    ]
    if study.options.unit != "tokens":
        notes.append(
            f"Lengths count {study.options.unit}; training divides by tokens. Shifts in percent carry over as far as "
            "answers have as many tokens to each, which very short answers do not (their end is a token too); "
            "--tokenizer counts exactly."
        )
    lead = "No model was run: everything here follows from the lengths of the answers."
    return Section("method", "Method", lead, notes=tuple(notes))
