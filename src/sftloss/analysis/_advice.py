"""Advice as a table of rules: if you want this, do that, because of this number. Never a ranking."""

from __future__ import annotations

from sftloss.analysis import _fixes as fixes
from sftloss.analysis import _numbers as numbers
from sftloss.analysis._frames import Study
from sftloss.analysis._section_length import elasticity
from sftloss.analysis._section_tokens import band_shares, describe_band, end_shares
from sftloss.analysis._shares import bounds, cell, number, percent
from sftloss.analysis._tilt import EXAMPLE_MEAN, TOKEN_MEAN
from sftloss.analysis._token_groups import BAND_NAMES
from sftloss.analysis._views import View
from sftloss.analysis.document import Cell, Column, Section, Table

Rule = tuple[str, str, str, float | None, float | None, float | None, str]


def advice_section(study: Study) -> Section:
    """Rules whose premise can be read off this data. The reader chooses the premise."""
    columns = (
        Column("premise", "if you want"),
        Column("advice", "then"),
        Column("because", "because"),
        Column("value", "number", "number"),
        Column("low", "low", "number", "end of the 95 % interval"),
        Column("high", "high", "number", "end of the 95 % interval"),
        Column("fix", "how"),
    )
    rules: list[Rule] = [*_length_rules(study), *_signal_rules(study)]
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (*rule[:3], cell(rule[3]), cell(rule[4]), cell(rule[5]), rule[6]) for rule in rules
    )
    lead = (
        "You choose the premise; the numbers are this data's. Which loss is best only a comparison by training can say."
    )
    return Section("advice", "Advice", lead, tables=(Table("advice", "Rules", columns, rows),))


def _length_rules(study: Study) -> list[Rule]:
    options = study.options
    rules: list[Rule] = []
    data, limit = study.mean_length, ""
    if study.answers.cannot_tell:
        limit = " (prompts that settle the length keep it)"
    for wish, normalisation, then in (
        ("output as long as the data's", TOKEN_MEAN, "divide by the trained tokens of the whole step"),
        ("shorter output", EXAMPLE_MEAN, "average every example first"),
    ):
        learned = study.forecast(normalisation).unconditional
        because = f"it teaches {number(learned.value)} tokens an answer, the data has {number(data)}{limit}"
        ends = bounds(learned.interval)
        rules.append((wish, then, because, learned.value, *ends, fixes.alpha(normalisation.alpha)))
    if not numbers.cannot_tell(study.size):
        base = elasticity(study, View(study.objective, TOKEN_MEAN), options.level)
        # beyond [0, 1.5] the straight line is no description of the data, and dividing by that power equalises nothing
        if 0 < base.value <= fixes.STEEPEST and base.interval is not None:
            because = f"counting tokens alike, twice the length gets {2.0**base.value:.2f} times the signal"
            near = round(base.value) if abs(base.value - round(base.value)) < 0.05 else base.value
            wish = "equal signal from short and long examples"
            then = "average every example first" if near == 1 else f"divide every example by T^{near:.2f}"
            rules.append((wish, then, because, base.value, *bounds(base.interval), fixes.alpha(near)))
    return rules


def _signal_rules(study: Study) -> list[Rule]:
    current = study.view.normalisation.name
    of = band_shares(study)
    rules: list[Rule] = []
    tokens, signal = describe_band(of, BAND_NAMES[-1], current)
    if tokens > 0:
        ends = of.intervals[of.labels.index(BAND_NAMES[-1])][of.columns.index(current)]
        then, fix = "keep the loss: they already rest", ""
        if signal > 0.05:
            then, fix = "look at a loss that lets certain tokens rest", fixes.FOCAL
        because = (
            f"tokens with p \u2265 0.99 are {percent(tokens)} of the tokens and get {percent(signal)} of the signal"
        )
        rules.append(("less effort on what is known", then, because, signal, *bounds(ends), fix))
    end = end_shares(study)
    if "end" in end.labels:
        row, column = end.labels.index("end"), end.columns.index(current)
        share, ends = float(end.value[row, column]), end.intervals[row][column]
        because = f"end tokens are {percent(float(end.column('tokens')[row]))} of the tokens and get {percent(share)} "
        because += "of the signal"
        rules.append(("better stopping", "weight the ends of answers more", because, share, *bounds(ends), fixes.ENDS))
    return rules
