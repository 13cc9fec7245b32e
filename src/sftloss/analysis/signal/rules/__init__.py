"""The findings of an analysis, one rule each: masks and data, output length, the policy, shares of signal, noise."""

from __future__ import annotations

from sftloss.analysis.lengths.rules import DATA103, NORM001, NORM002
from sftloss.analysis.signal.frames import SignalStudy
from sftloss.analysis.signal.rules import mask, noise, shares
from sftloss.document import Finding, by_severity
from sftloss.rules import Rule, findings_of

ABOUT_LENGTH = (DATA103, NORM001, NORM002)
SIGNAL_RULES: tuple[Rule[SignalStudy], ...] = (*mask.MASK_RULES, *shares.SHARES_RULES, noise.SIG004)


def findings_of_study(study: SignalStudy) -> tuple[Finding, ...]:
    """All findings, the most severe first, then by id."""
    return by_severity((*findings_of(SIGNAL_RULES, study), *findings_of(ABOUT_LENGTH, study.lengths)))


def findings_without_signal(study: SignalStudy) -> tuple[Finding, ...]:
    """The findings that need no trained token."""
    return by_severity(findings_of(mask.MASK_RULES, study))
