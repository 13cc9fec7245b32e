"""Findings about output length, from plain numbers: the one place that words NORM001, NORM002, NORM004 and DATA103."""

from __future__ import annotations

from dataclasses import dataclass

from sftloss.analysis import _fixes as fixes
from sftloss.analysis._numbers import Estimate
from sftloss.analysis._shares import number, percent, with_interval
from sftloss.analysis.document import Finding, Interval, Severity

SHIFT = 0.05  # a change of mean length below 5 % is not worth a warning

_WHY = {
    "NORM001": "A token's weight then depends on who shares its micro-batch; with one sequence it is the example mean.",
    "NORM002": "At the optimum each answer counts 1/T: the learned mean length is the harmonic mean of the data's.",
}


@dataclass(frozen=True)
class Shift:
    """A predicted change of mean output length.

    Attributes:
        data: Mean output length of the data.
        bound: The predicted mean if the prompt says nothing about length: the shift is at most this.
        given_prompt: The predicted mean if only answers to one prompt vary; None where that is unknown.
        cannot_tell: Why the data cannot show whether it happens; empty where it can.
        unit: What lengths count.
    """

    data: float
    bound: Estimate
    given_prompt: float | None = None
    cannot_tell: str = ""
    unit: str = "tokens"

    @property
    def relative(self) -> float:
        return self.bound.value / self.data - 1.0


def micro_batch_finding(sequences: int, shift: Shift, *, is_used: bool) -> Finding | None:
    """NORM001: token means of micro-batches shorten answers. None where the shift is below 5 %."""
    subject = f"A token mean over each micro-batch of {sequences} sequence{'s' if sequences != 1 else ''}"
    return _shift_finding("NORM001", subject, shift, is_used=is_used)


def example_mean_finding(shift: Shift, *, is_used: bool) -> Finding | None:
    """NORM002: the example mean teaches the harmonic mean length. None where the shift is below 5 %."""
    return _shift_finding("NORM002", "Averaging within each example", shift, is_used=is_used)


def _shift_finding(id: str, subject: str, shift: Shift, *, is_used: bool) -> Finding | None:
    """A warning needs a normalisation that is in use, and data that shows a shift given the prompt."""
    if not abs(shift.relative) >= SHIFT:
        return None
    sentence = (
        f"{subject} teaches a mean answer of at most {percent(abs(shift.relative))} "
        f"{'less' if shift.relative < 0 else 'more'} than the data: {with_interval(shift.bound)} against "
        f"{number(shift.data)} {shift.unit}"
    )
    given = shift.data if shift.given_prompt is None else shift.given_prompt
    if shift.cannot_tell:
        sentence += f"; whether it happens here the data cannot tell ({shift.cannot_tell})."
    else:
        sentence += f"; given the prompt {number(given)}."
    is_shown = not shift.cannot_tell and abs(given / shift.data - 1.0) >= SHIFT
    severity: Severity = "warning" if is_used and is_shown else "info"
    value, spread = shift.bound.value, shift.bound.interval
    return Finding(id, severity, sentence, _WHY[id], fixes.GLOBAL_MEAN, value, spread, shift.unit)


def conflict_finding(share: float, spread: Interval | None, rows: tuple[str, ...]) -> Finding:
    """DATA103: the same prompt with answers of different length, the condition under which the tilt acts."""
    return Finding(
        "DATA103",
        "info",
        f"{percent(share)} of the examples share their prompt with an answer of another length.",
        "There a normalisation by length decides which of the answers is learned, not only how fast.",
        "",
        share,
        spread,
        "share of examples",
        rows,
    )


def concentration_finding(effective: float, top: float, rows: tuple[str, ...]) -> Finding | None:
    """NORM004: few examples hold most of the signal. Takes Kish's share of all examples and the top 1 %'s share."""
    if not (effective < 0.1 or top > 0.2):
        return None
    return Finding(
        "NORM004",
        "warning",
        f"The top 1 % of the examples hold {percent(top)} of the signal; {percent(effective)} of the examples count.",
        "Most examples hardly move the model; a few, perhaps broken ones, move it a lot.",
        f"{fixes.alpha(0.5)}, or look at the rows listed",
        effective,
        None,
        "effective share of examples",
        rows,
    )
