"""Advice as a table of rules: if you want this, do that, because of this number. Never a ranking."""

from __future__ import annotations

from sftloss import numbers
from sftloss.analysis.shared import fixes
from sftloss.analysis.shared.shares import bounds, cell, number, percent
from sftloss.analysis.signal.frames import Study
from sftloss.analysis.signal.sections.length import is_bad_fit, length_law, length_misfit
from sftloss.analysis.signal.sections.tokens import band_shares, describe_band, end_shares
from sftloss.analysis.signal.token_groups import BAND_NAMES
from sftloss.analysis.signal.views import View
from sftloss.document import Cell, Column, Section, Table
from sftloss.weights import EXAMPLE_MEAN, TOKEN_MEAN

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
    if not len(study.answers.ids):  # all are cut off: nothing is known of output lengths
        return _equal_rule(study)
    rules: list[Rule] = []
    data, limit = study.mean_length, ""
    if study.answers.cannot_tell:
        limit = " (prompts that settle the length keep it)"
    for wish, normalization, then in (
        ("output as long as the data's", TOKEN_MEAN, "divide by the trained tokens of the whole step"),
        ("shorter output", EXAMPLE_MEAN, "average every example first"),
    ):
        learned = study.forecast(normalization).unconditional
        because = f"it teaches {number(learned.value)} tokens an answer, the data has {number(data)}{limit}"
        ends = bounds(learned.interval)
        rules.append((wish, then, because, learned.value, *ends, fixes.alpha(normalization.alpha)))
    return [*rules, *_equal_rule(study)]


def _equal_rule(study: Study) -> list[Rule]:
    """How to give short and long examples equal signal: no rule where the data cannot tell or no small power does."""
    view, level = View(study.objective, TOKEN_MEAN), study.options.level
    if numbers.cannot_tell(study.size):
        return []
    wish, base = "equal signal from short and long examples", length_law(study, view, level)
    if is_bad_fit(study, view, level):
        wrong = length_misfit(study, view, level)
        because = f"the best power of length puts {percent(wrong)} of the signal at the wrong lengths"
        return [
            (wish, "weight rows yourself: dividing by a power of length does not do it", because, wrong, None, None, "")
        ]
    if not 0 < base.value <= fixes.STEEPEST or base.interval is None:
        return []
    because = f"counting tokens alike, twice the length gets {2.0**base.value:.2f} times the signal"
    near = round(base.value) if abs(base.value - round(base.value)) < 0.05 else base.value
    then = "average every example first" if near == 1 else f"divide every example by T^{near:.2f}"
    return [(wish, then, because, base.value, *bounds(base.interval), fixes.alpha(near))]


def _signal_rules(study: Study) -> list[Rule]:
    current = study.view.normalization.name
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
