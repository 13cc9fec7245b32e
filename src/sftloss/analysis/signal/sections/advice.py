"""Advice as a table: for each wish what to do, and the number it rests on. Never a ranking."""

from __future__ import annotations

from collections.abc import Iterator

from sftloss.analysis.shared import fixes
from sftloss.analysis.shared.shares import estimate_cells, estimate_columns
from sftloss.analysis.signal.frames import SignalStudy
from sftloss.analysis.signal.sections.length import is_bad_fit, length_law, length_misfit
from sftloss.analysis.signal.sections.tokens import band_shares, end_shares
from sftloss.analysis.signal.token_groups import BAND_NAMES
from sftloss.analysis.signal.views import View
from sftloss.document import Column, Cure, Section, Table
from sftloss.numbers import Estimate, cannot_tell
from sftloss.weights import EXAMPLE_MEAN, TOKEN_MEAN
from sftloss.words import number, percent

Advice = tuple[str, str, str, Estimate, Cure]
"""The wish, what to do then, the observation it rests on, the number of that observation, a setting or words."""


def advice_section(study: SignalStudy) -> Section:
    """One row a wish whose number can be read off this data."""
    columns = (
        Column("premise", "if you want"),
        Column("advice", "then"),
        Column("because", "because"),
        *estimate_columns("value", "number"),
        Column("fix", "how"),
    )
    rows = tuple(
        (wish, then, because, *estimate_cells(estimate), how)
        for wish, then, because, estimate, how in (*_about_length(study), *_about_signal(study))
    )
    lead = (
        "Choose the row that matches your goal. Only training can show which loss is best; sftloss compare does that."
    )
    return Section("advice", "Advice", lead, tables=(Table("advice", "Goals and settings", columns, rows),))


def _about_length(study: SignalStudy) -> Iterator[Advice]:
    if len(study.lengths.answers.ids):  # else all are cut off, and no output length is known
        for wish, normalization, then in (
            ("output as long as the data's", TOKEN_MEAN, "divide by the trained tokens of the whole step"),
            ("shorter output", EXAMPLE_MEAN, "average every example first"),
        ):
            of = study.lengths.range_of(normalization)
            because = f"the predicted mean is {of.words('tokens')}, the data has {number(of.data)}"
            yield wish, then, because, of.bound, fixes.alpha(normalization.alpha)
    if not cannot_tell(study.size):
        yield from _equal_signal(study)


def _equal_signal(study: SignalStudy) -> Iterator[Advice]:
    """How to give short and long examples equal signal: nothing where no small power of length does."""
    view, level = View(study.objective, TOKEN_MEAN), study.options.level
    wish, law = "equal signal from short and long examples", length_law(study, view, level)
    if is_bad_fit(study, view, level):
        wrong = length_misfit(study, view, level)
        because = f"the best power of length puts {percent(wrong)} of the signal at the wrong lengths"
        then = "weight rows yourself: dividing by a power of length does not do it"
        yield wish, then, because, Estimate(wrong), ""
    elif 0 < law.value <= fixes.STEEPEST_ADVICE and law.interval is not None:
        because = f"with every token counted alike, twice the length gets {2.0**law.value:.2f} times the signal"
        near = round(law.value) if abs(law.value - round(law.value)) < 0.05 else law.value
        then = "average every example first" if near == 1 else f"divide every example by T^{near:.2f}"
        yield wish, then, because, law, fixes.alpha(near)


def _about_signal(study: SignalStudy) -> Iterator[Advice]:
    bands, known = band_shares(study), BAND_NAMES[-1]
    tokens, signal = bands.share(known, "tokens"), bands.estimate(known, study.current)
    if tokens > 0:
        part, is_much = f"tokens with {known}", signal.value > 0.05
        because = f"{part} are {percent(tokens)} of the tokens and get {percent(signal.value)} of the signal"
        then = "use a loss that gives known tokens less weight" if is_much else "keep the loss: these tokens get little"
        yield "less effort on what is known", then, because, signal, fixes.FOCAL if is_much else ""
    ends = end_shares(study)
    if "end" in ends.labels:
        tokens, signal = ends.share("end", "tokens"), ends.estimate("end", study.current)
        because = f"end tokens are {percent(tokens)} of the tokens and get {percent(signal.value)} of the signal"
        yield "better stopping", "weight the ends of answers more", because, signal, fixes.ENDS
