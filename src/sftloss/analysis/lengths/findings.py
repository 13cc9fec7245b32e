"""Findings about output length, from plain numbers: the one place that words NORM001, NORM002, NORM004 and DATA103."""

from __future__ import annotations

from dataclasses import dataclass

from sftloss.analysis.shared import fixes
from sftloss.document import Finding, Interval, Severity
from sftloss.numbers import Estimate
from sftloss.words import number, percent

SHIFT = 0.05  # a change of mean length below 5 % is not worth a warning

_WHY = {
    "NORM001": "A token then counts more in a micro-batch of short answers, so short answers are learned more often.",
    "NORM002": "Each token of an answer of T then counts 1/T, so short answers are learned more often: the mean length "
    "at the optimum is the harmonic mean of the data's.",
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

    @property
    def is_shown(self) -> bool:
        """Whether the data itself shows a shift of 5 % or more."""
        return (
            not self.cannot_tell and self.given_prompt is not None and abs(self.given_prompt / self.data - 1.0) >= SHIFT
        )


def micro_batch_finding(sequences: int, shift: Shift, *, is_used: bool) -> Finding | None:
    """NORM001: token means of micro-batches shorten answers. None where the shift is below 5 %."""
    subject = f"Averaging every micro-batch of {sequences} sequence{'s' if sequences != 1 else ''} first"
    return _shift_finding("NORM001", subject, shift, is_used=is_used)


def example_mean_finding(shift: Shift, *, is_used: bool) -> Finding | None:
    """NORM002: the example mean teaches the harmonic mean length. None where the shift is below 5 %.

    Where it is not used and the data shows no shift there is nothing to report: the forecast has its upper bound.
    """
    if not (is_used or shift.is_shown):
        return None
    return _shift_finding("NORM002", "Averaging every example first", shift, is_used=is_used)


def _shift_finding(id: str, subject: str, shift: Shift, *, is_used: bool) -> Finding | None:
    """A warning needs a normalization that is in use, and data that shows a shift given the prompt."""
    if not abs(shift.relative) >= SHIFT:
        return None
    teaches, kind = "teaches" if is_used else "would teach", "shorter" if shift.relative < 0 else "longer"
    sentence = (
        f"{subject} {teaches} {kind} output: {number(shift.bound.value)} {shift.unit} instead of {number(shift.data)}, "
        f"up to {percent(abs(shift.relative))} {'less' if shift.relative < 0 else 'more'}."
    )
    given = shift.data if shift.given_prompt is None else shift.given_prompt
    why = f"{_WHY[id]} It happens where prompts leave the length open"
    if shift.cannot_tell:
        why += f"; the data cannot tell whether they do ({shift.cannot_tell})."
    else:
        why += "."
        sentence += f" What the data can show of it, given the prompt: {number(given)}."
    severity: Severity = "warning" if is_used and shift.is_shown else "info"
    value, spread = shift.bound.value, shift.bound.interval
    fix = fixes.GLOBAL_MEAN if is_used or id == "NORM001" else ""  # micro-batches are named by who trains with them
    return Finding(id, severity, sentence, why, fix, value, spread, shift.unit)


def conflict_finding(share: float, spread: Interval | None, rows: tuple[str, ...]) -> Finding:
    """DATA103: the same prompt with answers of different length, the condition under which the tilt acts."""
    return Finding(
        "DATA103",
        "info",
        f"{percent(share)} of the answers have a prompt that is also answered at another length.",
        "There a normalization by length decides which of the answers is learned, not only how fast.",
        "",
        share,
        spread,
        "share of answers",
        rows,
    )


def concentration_finding(effective: float, top: float, level: str, rows: tuple[str, ...]) -> Finding | None:
    """NORM004: few examples hold most of the signal. Takes Kish's share of all examples and the top 1 %'s share."""
    if not (effective < 0.1 or top > 0.2):
        return None
    return Finding(
        "NORM004",
        "warning",
        f"1 % of the examples take {percent(top)} of the training signal at {level}; the data counts like "
        f"{percent(effective)} of its examples.",
        "Most examples hardly move the model; a few, perhaps broken ones, move it a lot.",
        f"read the rows listed; if they are as you want them, a milder step is {fixes.alpha(0.5)}",
        effective,
        None,
        "effective share of examples",
        rows,
    )
