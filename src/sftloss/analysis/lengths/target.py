"""A wanted mean length: the exponent whose normalization gives it."""

from __future__ import annotations

import math

import numpy as np

from sftloss.analysis.lengths.answers import Answers
from sftloss.analysis.lengths.forecast import BOUND, STEEPEST, WITHIN, LengthStudy, bin_sums
from sftloss.analysis.lengths.tilt import conflicting, extremes
from sftloss.analysis.shared.shares import cell
from sftloss.document import Cell, Column, Section, Table
from sftloss.numbers import Codes, Floats
from sftloss.words import number


def solve(answers: Answers, target: float, groups: Codes | None) -> float:
    """The exponent alpha at which T^-alpha gives the mean length `target`; NaN where none within +-20 does.

    Only the variation inside `groups` (codes of the answers) counts, all of it where there are none. The mean falls as
    alpha grows wherever longer outputs have larger T, so there is one solution.

    Example:
        >>> import numpy as np
        >>> from sftloss.analysis.lengths.answers import ready
        >>> from sftloss.analysis.lengths.tilt import Lengths
        >>> two = Lengths(np.arange(2), np.array([2.0, 8.0]), np.array([2.0, 8.0]))
        >>> round(solve(ready(two), 3.2, None), 6)      # the harmonic mean
        1.0
    """
    if groups is None:
        size, output, count = _distinct(answers)
        codes, rest = np.zeros(len(size), dtype=np.int64), 0.0
    else:
        varied = conflicting(answers.output, groups)
        size, output, count = answers.size[varied], answers.output[varied], answers.counts[varied]
        rest = float(answers.output[~varied] @ answers.counts[~varied])
        codes = np.unique(groups[varied], return_inverse=True)[1].ravel()
    if not len(size):
        return math.nan
    shortest, _ = extremes(size, codes)
    logs = np.log(size) - np.log(shortest)[codes]
    members, whole = np.bincount(codes, count), float(answers.counts.sum())

    def gap(alpha: float) -> float:
        weights = count * np.exp(-alpha * logs)  # the shortest of a group has weight 1: nothing overflows within +-20
        means = np.bincount(codes, weights * output) / np.bincount(codes, weights)
        return float(members @ means + rest) / whole - target

    if not gap(-STEEPEST) > 0 > gap(STEEPEST):
        return math.nan
    from scipy.optimize import brentq

    return float(brentq(gap, -STEEPEST, STEEPEST, xtol=1e-12))


def _distinct(answers: Answers) -> tuple[Floats, Floats, Floats]:
    """Distinct pairs of size and output with how often each occurs: few, however many answers there are."""
    pairs, code = np.unique(answers.size + 1j * answers.output, return_inverse=True)
    return pairs.real, pairs.imag, bin_sums(code.ravel(), answers.counts)


def target_section(study: LengthStudy) -> Section:
    """Which exponent gives the wanted mean, under both assumptions."""
    target, unit = study.options.target_mean, study.options.unit
    assert target is not None
    assumptions: dict[str, Codes | None] = {BOUND: None}
    if study.answers.seen.any():
        assumptions[WITHIN] = study.answers.prompts
    rows: list[tuple[Cell, ...]] = []
    answers = []
    for name, groups in assumptions.items():
        alpha = solve(study.answers, target, groups)
        verdict = f"no exponent within {STEEPEST:g} of 0 reaches it"
        if not math.isnan(alpha):
            verdict = "keep the token mean" if abs(alpha) < 0.005 else f"--normalization {alpha:.2f}"
        rows.append((name, cell(alpha), *map(cell, _reach(study, groups)), verdict))
        answers.append(f"{'no exponent reaches it' if math.isnan(alpha) else verdict} {name}")
    columns = (
        Column("assumption", "assumption"),
        Column("alpha", "exponent alpha", "number", "divide by T^alpha; below 0 favours long answers"),
        Column("shortest", "shortest reachable", "number", "the limit of ever larger alpha"),
        Column("longest", "longest reachable", "number", "the limit of ever smaller alpha"),
        Column("verdict", "verdict"),
    )
    lead = f"For a mean of {number(target)} {unit} (the data's is {number(study.data.value)}): {'; '.join(answers)}."
    if study.reason:
        lead += f" Whether the exponent has this effect, this data cannot tell: {study.reason}."
    table = Table("length-target", f"Exponent for a mean of {number(target)} {unit}", columns, tuple(rows))
    notes = ("A large exponent leaves few effective examples. Check the generated lengths after training.",)
    return Section("target", "A target length", lead, tables=(table,), notes=notes)


def _reach(study: LengthStudy, groups: Codes | None) -> tuple[float, float]:
    """The least and the greatest mean that reweighting inside groups can give."""
    output = study.answers.output
    if groups is None:
        return float(output.min()), float(output.max())
    (low, high), counts = extremes(output, groups), study.answers.counts
    return float(np.average(low[groups], weights=counts)), float(np.average(high[groups], weights=counts))
