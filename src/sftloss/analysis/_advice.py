"""Advice as a table of rules: if you want this, do that, because of this number. Never a ranking."""

from __future__ import annotations

import numpy as np

from sftloss.analysis import _fixes as fixes
from sftloss.analysis import _numbers as numbers
from sftloss.analysis._frames import Study
from sftloss.analysis._section_length import elasticity
from sftloss.analysis._section_tokens import band_shares, describe_band, end_shares
from sftloss.analysis._shares import bounds, cell, number, percent
from sftloss.analysis._tilt import EXAMPLE_MEAN, TOKEN_MEAN, predict
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
    lead = "Each row states its premise; none says which loss is best. The final word has a comparison by training."
    return Section("advice", "Advice", lead, tables=(Table("advice", "Rules", columns, rows),))


def _length_rules(study: Study) -> list[Rule]:
    options = study.options
    data = float(study.output[study.size > 0].mean()) if (study.size > 0).any() else float("nan")
    rules: list[Rule] = []
    for wish, normalisation, then in (
        ("answers as long as the data's", TOKEN_MEAN, "one token mean over the whole step"),
        ("shorter answers", EXAMPLE_MEAN, "the mean within each example"),
    ):
        tilt = predict(study.lengths, normalisation, replicates=options.replicates, seed=options.seed)
        limit = "; the data cannot tell whether it happens here" if study.lengths.cannot_tell() else ""
        because = f"predicted mean length, data {number(data)}, the largest possible shift{limit}"
        ends = bounds(tilt.unconditional.interval)
        rules.append((wish, then, because, tilt.unconditional.value, *ends, fixes.alpha(normalisation.alpha)))
    if not numbers.cannot_tell(study.size):
        base = elasticity(study, View(study.objective, TOKEN_MEAN), options.level)
        if np.isfinite(base.value) and base.interval is not None:
            because = f"elasticity of {options.level} signal at alpha 0; alpha subtracts itself from it"
            wish, then = "equal signal from every example", f"divide by T^{base.value:.2f}"
            rules.append((wish, then, because, base.value, *bounds(base.interval), fixes.alpha(base.value)))
    return rules


def _signal_rules(study: Study) -> list[Rule]:
    current = study.view.normalisation.name
    of = band_shares(study)
    rules: list[Rule] = []
    tokens, signal = describe_band(of, BAND_NAMES[-1], current)
    if tokens > 0:
        ends = of.intervals[of.labels.index(BAND_NAMES[-1])][of.columns.index(current)]
        then = "focal(gamma=2) or another gate" if signal > 0.05 else "no gate: these tokens already rest"
        because = f"share of signal on p \u2265 0.99, which is {percent(tokens)} of the tokens"
        rules.append(("less effort on certain tokens", then, because, signal, *bounds(ends), fixes.COMPARE))
    end = end_shares(study)
    if "end" in end.labels:
        row, column = end.labels.index("end"), end.columns.index(current)
        ends = end.intervals[row][column]
        because = f"share of signal on ends, {percent(float(end.column('tokens')[row]))} of the tokens"
        then = "weight end tokens, after looking at generated lengths"
        rules.append(("better stopping", then, because, float(end.value[row, column]), *bounds(ends), fixes.COMPARE))
    return rules
