"""NORM003: whether the signal follows the policy that the user declared.

No policy is called wrong in itself. The verdict uses a region of practical equivalence, target plus or minus 0.1.
"""

from __future__ import annotations

import math

import numpy as np

from sftloss.analysis.shared import fixes
from sftloss.analysis.shared.shares import with_interval
from sftloss.analysis.signal.frames import SignalStudy
from sftloss.analysis.signal.sections.groups import group_shares
from sftloss.analysis.signal.sections.length import is_bad_fit, length_law, length_misfit
from sftloss.document import Cure
from sftloss.numbers import Estimate, cannot_tell, decide, interval
from sftloss.rules import Evidence, Rule
from sftloss.words import percent

TARGETS = {"per-token": 1.0, "per-example": 0.0}
"""Elasticity of the signal in length that each policy asks for."""


def _policy(study: SignalStudy) -> Evidence | None:
    wanted = study.options.policy
    if wanted is None:
        return None
    return _task_policy(study) if wanted == "per-task" else _length_policy(study, wanted)


def _length_policy(study: SignalStudy, wanted: str) -> Evidence:
    reason, level = cannot_tell(study.size), study.options.level
    law = Estimate(math.nan, reason=reason) if reason else length_law(study, study.view, level)
    verdict = decide(law, TARGETS[wanted])
    if verdict == "insufficient data":
        detail = reason or law.reason or "no interval"
    else:
        detail = f"the elasticity of the signal (level {level}) in length is {with_interval(law)}"
        detail += f", the policy asks for {TARGETS[wanted]:.0f} \u00b1 0.1"
        if is_bad_fit(study, study.view, level):
            # a mean slope on target may hide lengths that are all off it
            verdict = "inconclusive" if verdict == "on target" else verdict
            elsewhere = percent(length_misfit(study, study.view, level))
            detail += f"; no power of length fits, it puts {elsewhere} of the signal at the wrong lengths"
    is_off = verdict == "off target"
    return Evidence(
        f"Policy {wanted}: {verdict} ({detail}).",
        law.value if law.is_defined else None,
        law.interval,
        "elasticity",
        severity="warning" if is_off else "info",
        cure=_cure(study, law.value, TARGETS[wanted]) if is_off else "",
    )


def _cure(study: SignalStudy, slope: float, target: float) -> Cure:
    """The exponent that reaches the target, where the signal follows one: dividing by another T^a lowers it by a."""
    if study.view.normalization.micro_batch is not None:
        return fixes.GLOBAL_MEAN if target == 1 else fixes.alpha(1.0)
    alpha = round(study.options.normalization.alpha + slope - target, 2)
    if is_bad_fit(study, study.view, study.options.level) or not 0 <= alpha <= fixes.STEEPEST_ADVICE:
        return fixes.BY_HAND
    return fixes.alpha(alpha)


def _task_policy(study: SignalStudy) -> Evidence:
    """Each task's signal share times the number of tasks: 1 is equal."""
    of = group_shares(study, "task")
    if of is None or len(of.labels) < 2 or (study.size > 0).sum() < 30:
        reason = "fewer than two tasks" if of is None or len(of.labels) < 2 else "fewer than 30 examples"
        return Evidence(f"Policy per-task: insufficient data ({reason}).", severity="info", cure="")
    column, count = of.columns.index(study.current), len(of.labels)
    estimates = [
        Estimate(count * float(of.value[g, column]), interval(count * of.replicates[:, g, column]))
        for g in range(count)
    ]
    verdicts = {decide(estimate, 1.0) for estimate in estimates}
    worst = int(np.argmax([abs(estimate.value - 1.0) for estimate in estimates]))
    is_off = "off target" in verdicts
    verdict = "off target" if is_off else "on target" if verdicts == {"on target"} else "inconclusive"
    return Evidence(
        f"Policy per-task: {verdict}; the task '{of.labels[worst]}' has {with_interval(estimates[worst])} times an "
        "equal share of the signal.",
        estimates[worst].value,
        estimates[worst].interval,
        "times an equal share",
        severity="warning" if is_off else "info",
        cure=fixes.TASK_WEIGHTS if is_off else "",
    )


POLICY_RULES: tuple[Rule[SignalStudy], ...] = (
    Rule(
        "NORM003",
        "info",
        "Whether the signal follows the policy given with --policy",
        "The policy is your choice; this only checks whether the loss does what you chose.",
        "the normalization that reaches the policy, where one does",
        _policy,
    ),
)
