"""Advice as a table: for each wish what to do, and the number it rests on. Never a ranking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sftloss.analysis.shared import fixes
from sftloss.analysis.shared.shares import bounds, cell
from sftloss.analysis.signal.frames import SignalStudy
from sftloss.analysis.signal.sections.length import is_bad_fit, length_law, length_misfit
from sftloss.analysis.signal.sections.tokens import band_shares, describe_band, end_shares
from sftloss.analysis.signal.token_groups import BAND_NAMES
from sftloss.analysis.signal.views import View
from sftloss.document import Cell, Column, Cure, Section, Table
from sftloss.numbers import Estimate, cannot_tell
from sftloss.weights import EXAMPLE_MEAN, TOKEN_MEAN
from sftloss.words import number, percent


@dataclass(frozen=True)
class Advice:
    """One row.

    Attributes:
        premise: The wish, after "if you want".
        advice: What to do then.
        because: The observation it rests on.
        estimate: The number of that observation.
        how: A setting, a command or words; empty where `advice` says it all.
    """

    premise: str
    advice: str
    because: str
    estimate: Estimate
    how: Cure = ""

    def row(self) -> tuple[Cell, ...]:
        """The cells of the table."""
        ends = (cell(end) for end in bounds(self.estimate.interval))
        return (self.premise, self.advice, self.because, cell(self.estimate.value), *ends, self.how)


def advice_section(study: SignalStudy) -> Section:
    """One row a wish whose number can be read off this data."""
    columns = (
        Column("premise", "if you want"),
        Column("advice", "then"),
        Column("because", "because"),
        Column("value", "number", "number"),
        Column("low", "low", "number", "end of the 95 % interval"),
        Column("high", "high", "number", "end of the 95 % interval"),
        Column("fix", "how"),
    )
    rows = tuple(advice.row() for advice in (*_about_length(study), *_about_signal(study)))
    lead = (
        "Choose the row that matches your goal. Which loss trains best can only be found by training: sftloss compare."
    )
    return Section("advice", "Advice", lead, tables=(Table("advice", "Goals and settings", columns, rows),))


def _about_length(study: SignalStudy) -> Iterator[Advice]:
    if len(study.answers.ids):  # else all are cut off, and no output length is known
        data, limit = study.lengths.data.value, ""
        if study.answers.cannot_tell:
            limit = " (where the prompt determines the length, nothing changes)"
        for wish, normalization, then in (
            ("output as long as the data's", TOKEN_MEAN, "divide by the trained tokens of the whole step"),
            ("shorter output", EXAMPLE_MEAN, "average every example first"),
        ):
            learned = study.lengths.forecast(normalization).unconditional
            because = f"it teaches {number(learned.value)} tokens an answer, the data has {number(data)}{limit}"
            yield Advice(wish, then, because, learned, fixes.alpha(normalization.alpha))
    if not cannot_tell(study.size):
        yield from _equal_signal(study)


def _equal_signal(study: SignalStudy) -> Iterator[Advice]:
    """How to give short and long examples equal signal: nothing where no small power of length does."""
    view, level = View(study.objective, TOKEN_MEAN), study.options.level
    wish, law = "equal signal from short and long examples", length_law(study, view, level)
    if is_bad_fit(study, view, level):
        wrong = length_misfit(study, view, level)
        because = f"the best power of length puts {percent(wrong)} of the signal at the wrong lengths"
        yield Advice(
            wish, "weight rows yourself: dividing by a power of length does not do it", because, Estimate(wrong)
        )
    elif 0 < law.value <= fixes.STEEPEST_ADVICE and law.interval is not None:
        because = f"with every token counted alike, twice the length gets {2.0**law.value:.2f} times the signal"
        near = round(law.value) if abs(law.value - round(law.value)) < 0.05 else law.value
        then = "average every example first" if near == 1 else f"divide every example by T^{near:.2f}"
        yield Advice(wish, then, because, law, fixes.alpha(near))


def _about_signal(study: SignalStudy) -> Iterator[Advice]:
    current, of = study.view.normalization.name, band_shares(study)
    tokens, signal = describe_band(of, BAND_NAMES[-1], current)
    if tokens > 0:
        ends = of.intervals[of.labels.index(BAND_NAMES[-1])][of.columns.index(current)]
        because = (
            f"tokens with p \u2265 0.99 are {percent(tokens)} of the tokens and get {percent(signal)} of the signal"
        )
        is_much = signal > 0.05
        then = "use a loss that gives known tokens less weight" if is_much else "keep the loss: these tokens get little"
        estimate = Estimate(signal, ends)
        yield Advice("less effort on what is known", then, because, estimate, fixes.FOCAL if is_much else "")
    end = end_shares(study)
    if "end" in end.labels:
        row, column = end.labels.index("end"), end.columns.index(current)
        share, ends = float(end.value[row, column]), end.intervals[row][column]
        because = f"end tokens are {percent(float(end.column('tokens')[row]))} of the tokens and get {percent(share)} "
        because += "of the signal"
        yield Advice("better stopping", "weight the ends of answers more", because, Estimate(share, ends), fixes.ENDS)
