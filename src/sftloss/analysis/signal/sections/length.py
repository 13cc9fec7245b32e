"""Length: how signal grows with it, who holds it, and the output length predicted under each normalization."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sftloss import numbers
from sftloss.analysis.lengths.sections import batches_note, cut_note, forecast_section
from sftloss.analysis.shared.shares import (
    cell,
    estimate_cells,
    estimate_columns,
    forest,
    share_chart,
    share_table,
    shares,
    with_interval,
)
from sftloss.analysis.shared.words import ALL_CUT, WHERE_IN_THE_RANGE
from sftloss.analysis.signal.frames import SignalStudy
from sftloss.analysis.signal.views import LEVELS, View
from sftloss.document import Cell, Chart, Column, Section, Series, Table
from sftloss.numbers import Estimate
from sftloss.words import index, number, percent


def length_law(study: SignalStudy, view: View, level: str) -> Estimate:
    """Elasticity of a view's signal in T, with its interval."""
    options = study.options
    return study.once(
        ("elasticity", view, level),
        lambda: numbers.elasticity(
            study.example_lengths,
            study.signal(view, level),
            study.units,
            replicates=options.replicates,
            seed=options.seed,
        ),
    )


def length_misfit(study: SignalStudy, view: View, level: str) -> float:
    """Share of a view's signal that its elasticity puts at the wrong lengths; NaN where there is none."""
    return study.once(
        ("misfit", view, level),
        lambda: numbers.misfit(study.example_lengths, study.signal(view, level), length_law(study, view, level).value),
    )


def is_bad_fit(study: SignalStudy, view: View, level: str) -> bool:
    """Whether no one exponent describes how signal grows with length, so that none may be advised."""
    return length_misfit(study, view, level) > numbers.BAD_FIT


def length_section(study: SignalStudy) -> Section:
    """Elasticity under each normalization, the concentration curve, and deciles of length."""
    level = study.options.level
    laws = [(view.normalization.name, length_law(study, view, level)) for view in study.views]
    deciles, bins = _deciles(study, level)
    slopes = forest(
        laws,
        id="length-elasticity",
        title="How signal grows with length",
        x_label="elasticity: twice the length, 2^elasticity times the signal",
        description="1: signal in proportion to tokens; 0: the same for every example. "
        + "; ".join(f"{name} {with_interval(law)}" for name, law in laws),
    )
    charts, notes = (slopes, _curves(study, level), bins), ("T is the sum of an example's token weights.",)
    return Section("length", "Length", _lead(study), LEVELS[level], charts, (deciles,), notes=notes)


def appendix_section(study: SignalStudy) -> Section:
    """Numbers on signal and length for readers who know these measures."""
    level = study.options.level
    lead = "More measures of how signal depends on length. No section above uses them."
    notes = (
        _correlations(study),
        "Elasticity is the power of T that the mean signal follows (gamma quasi-likelihood with a log link); examples "
        "with little or no signal count as they are. Misfit is the share of the signal that this power puts at the "
        f"wrong deciles of length; above {percent(numbers.BAD_FIT)} no multiple and no exponent is shown.",
    )
    return Section("appendix", "Appendix", lead, LEVELS[level], tables=(_numbers_table(study, level),), notes=notes)


def _lead(study: SignalStudy) -> str:
    level, reason = study.options.level, numbers.cannot_tell(study.example_lengths)
    if reason:
        return f"This data cannot tell how signal depends on length: {reason}."
    bad = [view for view in study.views if is_bad_fit(study, view, level)]
    laws = [(view, length_law(study, view, level)) for view in study.views if view not in bad]
    good = [f"{index(2.0**law.value)} under {view.normalization.name}" for view, law in laws if law.is_defined]
    sentences = []
    if good:
        sentences = [
            f"An example of twice the length gets this many times the signal: {', '.join(good)}.",
            "2 means that every token counts alike, 1 that every example does.",
        ]
    if bad:
        worst = max(length_misfit(study, view, level) for view in bad)
        sentences.append(
            f"No power of length describes the signal under {', '.join(view.normalization.name for view in bad)}: the "
            f"best one puts {'up to ' if len(bad) > 1 else ''}{percent(worst)} of it at the wrong lengths. Read the "
            "deciles instead."
        )
    return " ".join(sentences) or "This data cannot tell how signal depends on length."


_NUMBER_COLUMNS = (
    Column("normalization", "normalization"),
    *estimate_columns(
        "elasticity",
        "elasticity",
        "index",
        help="exponent of the mean signal in T: twice the length, 2^elasticity the signal",
    ),
    Column("misfit", "misfit", "percent", "signal that this exponent puts at the wrong lengths; above 10 %: no law"),
    Column("theil_sen", "Theil-Sen", "index", "median slope of the logarithms over pairs: the typical example"),
    Column("concentration", "concentration index", "index", "above 0: long examples have more than their part"),
    Column("kakwani", "Kakwani", "index", "0: in proportion to tokens; below: short examples get more"),
    Column("spearman", "Spearman", "index", "rank correlation of signal and length"),
    Column("partial", "Spearman given difficulty", "index", "after what the mean loss (and task) explain"),
)


def _numbers_table(study: SignalStudy, level: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    trained = study.size > 0
    size = study.example_lengths[trained]
    difficulty = study.column(f"loss:{study.objective}")[trained] / study.size[trained]
    codes, names = study.codes("task")
    tasks = codes[trained] if len(names) > 1 else None
    for view in study.views:
        signal = study.signal(view, level)[trained]
        keep = signal > 0
        typical = numbers.theil_sen(np.log(size[keep]), np.log(signal[keep])) if keep.sum() > 2 else math.nan
        partial = numbers.partial_spearman(size, signal, difficulty, tasks) if len(size) > 9 else math.nan
        concentration, kakwani = numbers.concentration_index(signal, size), numbers.kakwani(signal, size)
        values = (length_misfit(study, view, level), typical, concentration, kakwani)
        law, rank = length_law(study, view, level), numbers.spearman(size, signal).r
        rows.append((view.normalization.name, *estimate_cells(law), *map(cell, (*values, rank, partial))))
    return Table("length-numbers", "Signal and length", _NUMBER_COLUMNS, tuple(rows))


def _deciles(study: SignalStudy, level: str) -> tuple[Table, Chart]:
    trained = study.size > 0
    codes, bins = numbers.quantile_bins(study.example_lengths[trained])
    every = np.full(len(trained), len(bins))
    every[trained] = codes
    names = [number(a) if a == b else f"{number(a)} to {number(b)}" for a, b in bins] + ["untrained"]
    signals = study.rule_names
    sums = study.example_sums(every, len(names), study.views, level).keep(np.arange(len(bins)))  # the trained ones
    of = shares(sums, names, ["examples", "tokens", *signals])
    table = share_table(of, id="length-deciles", title="Deciles of length", first="length T", signals=signals)
    top = "; ".join(f"{name} {percent(of.column(name)[-1])}" for name in of.columns if of.labels)
    described = f"Shares of examples, tokens and signal by length. The longest group: {top}."
    head = {"id": "length-decile-shares", "title": "Shares by length", "x_label": "length T"}
    return table, share_chart(of, **head, signals=signals, description=described)


def _curves(study: SignalStudy, level: str) -> Chart:
    trained = study.size > 0
    size = study.example_lengths[trained]
    x, y = numbers.concentration_curve(size, size)
    lines = [
        Series("equal for every example", (0.0, 1.0), (0.0, 1.0), is_reference=True),
        Series("in proportion to tokens", tuple(x.tolist()), tuple(map(cell, y)), is_reference=True),
    ]
    halves = []
    for view in study.views:
        x, y = numbers.concentration_curve(study.signal(view, level)[trained], size)
        lines.append(Series(view.normalization.name, tuple(x.tolist()), tuple(map(cell, y))))
        halves.append(f"{view.normalization.name} {percent(float(np.interp(0.5, x, y)))}")
    described = "Cumulative share of signal over examples from short to long. The shorter half has: " + ", ".join(
        halves
    )
    chart = Chart(
        "length-concentration",
        "line",
        "Signal of the shortest examples",
        "share of examples, shortest first",
        "share of signal",
        tuple(lines),
        described,
    )
    return replace(chart, format_x="percent", format_y="percent")


def _correlations(study: SignalStudy) -> str:
    trained = study.size > 0
    size, total = study.example_lengths[trained], (study.column(f"loss:{study.objective}") / study.row_weights)[trained]
    summed, mean = numbers.pearson(size, total).r, numbers.pearson(size, total / size).r
    return (
        f"Over examples, length correlates {index(summed)} with the summed loss and {index(mean)} with the mean "
        "loss. The first is mechanical: a sum of T positive terms grows with T, whatever the model or the loss. It is "
        "no sign of bias."
    )


def tilt_section(study: SignalStudy) -> Section:
    """Predicted mean output length of every normalization, from the lengths alone."""
    if not len(study.lengths.answers.ids):
        return Section("tilt", "Output length", ALL_CUT)
    section, notes = forecast_section(study.lengths), [WHERE_IN_THE_RANGE]
    notes.append(
        "Lengths are of single answers; T is of the whole example, and the prompt of an answer is everything before "
        "it. The command sftloss lengths gives the same numbers and more detail, without a model."
    )
    notes += list(dict.fromkeys(batches_note(rule.batches) for rule in study.rules if rule.micro_batch))
    cut = study.lengths.answers.cut
    notes += [cut_note(cut)] if cut else []
    return replace(section, id="tilt", title="Output length", notes=tuple(notes))
