"""The findings that need lengths alone: the predicted range of answers, and few examples with most of the signal."""

from __future__ import annotations

import numpy as np

from sftloss.analysis.lengths.forecast import LEAST_SHIFT, LengthStudy
from sftloss.analysis.lengths.tilt import sequence_weights
from sftloss.analysis.shared import fixes
from sftloss.analysis.shared.words import WHERE_IN_THE_RANGE, as_subject
from sftloss.document import Severity
from sftloss.numbers import Floats, kish_ess, top_share
from sftloss.rules import Evidence, Rule
from sftloss.weights import EXAMPLE_MEAN, TOKEN_MEAN, Normalization
from sftloss.words import number, percent

_FEW = 100  # examples, below which the top 1 % is not one example


def _micro_batch(study: LengthStudy) -> Evidence | None:
    """The micro-batch in use, or the smallest that is compared."""
    sizes = [rule for rule in study.options.all_normalizations() if rule.micro_batch is not None]
    if not sizes or not len(study.answers.ids):
        return None
    used = study.used
    chosen = used if used in sizes else min(sizes, key=lambda rule: rule.micro_batch or 0)
    assert chosen is not None and chosen.micro_batch is not None
    return _shifted(study, chosen, as_subject(chosen))


def _example_mean(study: LengthStudy) -> Evidence | None:
    """Where it is not used and the data shows no shift there is nothing to report: the forecast has its bound."""
    if not len(study.answers.ids) or not (study.used == EXAMPLE_MEAN or study.range_of(EXAMPLE_MEAN).is_shown):
        return None
    return _shifted(study, EXAMPLE_MEAN, "Averaging every example first")


def _shifted(study: LengthStudy, rule: Normalization, subject: str) -> Evidence | None:
    """A warning needs a normalization that is in use, and data that shows a shift given the prompt."""
    of, is_used, unit = study.range_of(rule), study.used == rule, study.options.unit
    if not abs(of.largest_shift) >= LEAST_SHIFT:
        return None
    direction = "shorter" if of.largest_shift < 0 else "longer"
    sentence = (
        f"{subject} {'can make' if is_used else 'could make'} output {direction}: the predicted mean is "
        f"{of.words(unit)}; the data's mean is {number(of.data)}."
    )
    if of.cannot_tell:
        sentence += f" Where in this range training ends, this data cannot tell: {of.cannot_tell}."
    severity: Severity = "warning" if is_used and of.is_shown else "info"
    # whoever trains with micro-batches names them; other normalizations are compared without being used
    cure = None if is_used or rule.micro_batch is not None else ""
    return Evidence(sentence, of.whole, of.interval, f"{unit} at the bound", severity=severity, cure=cure)


def _concentrated(study: LengthStudy) -> Evidence | None:
    """The nominal signal: the coefficients an example receives."""
    size, ids = study.answers.sizes, study.answers.examples
    signal = size * sequence_weights(size, study.used or TOKEN_MEAN) * study.answers.row_weights
    top = ids[np.lexsort((ids, -signal))[:10]]
    return concentration(signal, "S0", () if study.origins is None else study.origins(top))


def concentration(signal: Floats, level: str, rows: tuple[str, ...]) -> Evidence | None:
    """NORM004 of each example's signal; `rows` are the origins of the examples with the most."""
    if len(signal) < _FEW:
        return None
    effective, top = kish_ess(signal) / len(signal), top_share(signal, 0.01)
    if not (effective < 0.1 or top > 0.2):
        return None
    sentence = (
        f"The top 1 % of the examples take {percent(top)} of the training signal (level {level}); the effective number "
        f"of examples is {percent(effective)} of all."
    )
    return Evidence(sentence, effective, None, "effective share of examples", rows)


def _conflicts(study: LengthStudy) -> Evidence | None:
    seen = study.answers.seen
    if not seen.any():
        return None
    share = study.seen_share
    sentence = f"{percent(share.value)} of the answers have a prompt that is also answered at another length."
    return Evidence(sentence, share.value, share.interval, "share of answers", study.rows(np.flatnonzero(seen)))


NORM001 = Rule(
    "NORM001",
    "info",
    "Token means of micro-batches that change the length of the output",
    f"A token counts more in a micro-batch of short answers, so short answers count more. {WHERE_IN_THE_RANGE}",
    fixes.GLOBAL_MEAN,
    _micro_batch,
)
NORM002 = Rule(
    "NORM002",
    "info",
    "An example mean that changes the length of the output",
    f"Each token of an answer of length T counts 1/T, so short answers count more. {WHERE_IN_THE_RANGE}",
    fixes.GLOBAL_MEAN,
    _example_mean,
)
NORM004 = Rule(
    "NORM004",
    "warning",
    "Few examples that hold most of the signal",
    "Most examples hardly change the model; a few, perhaps broken ones, change it a lot.",
    f"read the rows listed here; if they are correct, use a milder normalization: {fixes.alpha(0.5)}",
    _concentrated,
)
DATA103 = Rule(
    "DATA103",
    "info",
    "One prompt with different answers",
    "For such a prompt a normalization by length decides which of the answers is learned, not only how fast.",
    "",
    _conflicts,
)
LENGTHS_RULES: tuple[Rule[LengthStudy], ...] = (NORM001, NORM002, NORM004, DATA103)
