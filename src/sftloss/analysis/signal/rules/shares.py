"""The findings about shares of the signal: the declared policy, examples, groups, bands of confidence, ends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from sftloss.analysis.lengths.rules import NORM004, concentration
from sftloss.analysis.shared import fixes
from sftloss.analysis.shared.shares import Shares, with_interval
from sftloss.analysis.shared.words import group_name, inside_sentence, tokens_and_signal
from sftloss.analysis.signal.frames import SignalStudy, signal_expr
from sftloss.analysis.signal.rules.mask import share_of
from sftloss.analysis.signal.sections.groups import group_codes, group_shares
from sftloss.analysis.signal.sections.length import is_bad_fit, length_law, length_misfit
from sftloss.analysis.signal.sections.tokens import token_shares
from sftloss.analysis.signal.token_groups import BAND_NAMES, band_key
from sftloss.document import Cure
from sftloss.numbers import Estimate, cannot_tell, data_to_decide, decide, ratio_estimates
from sftloss.rules import Evidence, Rule
from sftloss.words import listed, number, percent

ENDS_LOW, ENDS_HIGH = 0.8, 1.25  # expected over actual ends, beyond which stopping is off
_MOST_DATA = 100  # times as much data, beyond which nobody has it
_NAMED = 5  # further groups that are named


def _concentrated(study: SignalStudy) -> Evidence | None:
    """NORM004 on the measured signal."""
    signal, level = study.signal(study.view, study.options.level), study.options.level
    rows = np.argsort(-signal, kind="stable")[:10]
    return concentration(signal[study.size > 0], level, study.origins(rows))


def _group_off(study: SignalStudy) -> Evidence | None:
    """A group's signal share is over three times its token share, or under a third, interval and all.

    Groups of the same rows, as a task that is also a source, are one. The farthest is described, the others named.
    """
    groups = sorted(_off_groups(study), key=lambda group: -abs(np.log(max(group.ratio.value, 1e-12))))
    if not groups:
        return None
    worst = groups[0]
    same = [group for group in groups[1:] if np.array_equal(group.rows, worst.rows)]
    others = {group.rows.tobytes(): group.name for group in reversed(groups[1:]) if group not in same}
    also = f" (the same rows as {listed([inside_sentence(group.name) for group in same])})" if same else ""
    sentence = f"{worst.name}{also} {worst.shares} (level {study.options.level})."
    if others:
        names = [inside_sentence(name) for name in list(others.values())[::-1][:_NAMED]]
        sentence += f" The shares of {listed(names)} differ as much."
    rows = study.origins(worst.rows[:10])
    return Evidence(sentence, worst.ratio.value, worst.ratio.interval, "times its share of tokens", rows)


@dataclass(frozen=True, eq=False)
class _OffGroup:
    """A group whose part of the signal is not its part of the tokens; `rows` are its examples."""

    name: str
    rows: np.ndarray
    ratio: Estimate
    shares: str


def _off_groups(study: SignalStudy) -> Iterator[_OffGroup]:
    current = study.current
    for column in study.options.group_by:
        coded, of = group_codes(study, column), group_shares(study, column)
        if coded is None or of is None:
            continue
        for code, label in enumerate(coded[1]):
            group = of.labels.index(label)
            ratio = of.ratio(group, current, "tokens")
            if ratio.interval is None or not (ratio.interval.low > 3.0 or ratio.interval.high < 1.0 / 3.0):
                continue
            sentence = tokens_and_signal(float(of.column("tokens")[group]), float(of.column(current)[group]))
            yield _OffGroup(group_name(column, label), np.flatnonzero(coded[0] == code), ratio, sentence)


def _wasted(study: SignalStudy) -> Evidence | None:
    """Much signal on tokens the model finds certain, or impossible."""
    of, known, unlikely = token_shares(study, "band"), BAND_NAMES[-1], BAND_NAMES[0]
    is_unlikely = of.share(unlikely, study.current) > 0.25
    if not (is_unlikely or of.share(known, study.current) > 0.2):
        return None
    if is_unlikely and of.share(unlikely, "tokens") > 0.2:
        return _unfamiliar(of)
    band = unlikely if is_unlikely else known
    signal = of.estimate(band, study.current)
    sentence = (
        f"Tokens with {band} are {percent(of.share(band, 'tokens'))} of the tokens and get {percent(signal.value)} of "
        f"the training signal (level {study.options.level})."
    )
    rows = study.origins(_rows_of_band(study, BAND_NAMES.index(band)))
    evidence = Evidence(sentence, signal.value, signal.interval, "share of signal", rows)
    if is_unlikely:
        return evidence
    why = "The model already predicts these tokens well, and the loss still gives them much of the signal."
    return replace(evidence, why=why, cure=fixes.FOCAL)


def _unfamiliar(of: Shares) -> Evidence:
    """Where the model knows so little that rare surprises cannot be told from the rest."""
    tokens = of.estimate(BAND_NAMES[0], "tokens")
    return Evidence(
        f"This model gives {percent(tokens.value)} of the trained tokens a probability below 1 %: it hardly knows this "
        "data yet.",
        tokens.value,
        tokens.interval,
        "share of tokens",
        severity="info",
        why="Shares by confidence are those of an untrained model, or of one that meets a new language or template. "
        "Wrong labels look the same as text that is only new to the model; look again after some training.",
        cure="",
    )


def _rows_of_band(study: SignalStudy, band: int) -> np.ndarray:
    """The examples with most signal in a band."""
    l1 = signal_expr(study.objective, "S1")
    signal = np.zeros(len(study.ids))
    for rows, chunk in study.trained(["target_logprob"]):
        in_band = chunk.select(pl.when(band_key() == band).then(l1).otherwise(0.0)).to_series().to_numpy()
        signal += np.bincount(rows, in_band, len(signal))  # an example is in one chunk
    signal *= study.factor(study.options.normalization)
    order = np.argsort(-signal, kind="stable")[:10]
    return order[signal[order] > 0]


def _end_calibration(study: SignalStudy) -> Evidence | None:
    """The model expects far more or far fewer ends than there are, interval and all.

    Expected are the probabilities of an end token summed over the trained tokens of answers. Examples that show no
    end token do not count: which token would end them is not known.
    """
    seen = study.column("ends_seen")
    if seen.sum() < 30:
        return None
    ratio, spread = share_of(study, study.column("ends_expected"), seen, ratio_estimates)
    if spread is None or (spread.high >= ENDS_LOW and spread.low <= ENDS_HIGH):
        return None
    runs_on = ratio < 1
    # a tenth of the ends, or text that the model hardly knows: it has not met this way of ending answers yet
    is_new = ratio < 0.1 or token_shares(study, "band").share(BAND_NAMES[0], "tokens") > 0.2
    if is_new:
        why = "It has not learned yet where these answers end: training must teach it, so their ends must be trained."
    else:
        why = f"It {'runs on past the end' if runs_on else 'stops early'}, whatever its loss is."
    return Evidence(
        f"The model expects {number(ratio)} ends for each end of an answer in the data.",
        ratio,
        spread,
        "expected over actual ends",
        severity="info" if is_new else None,
        why=why,
        cure=fixes.ENDS if runs_on else fixes.ENDS_ONLY,
    )


TARGETS = {"per-token": 1.0, "per-example": 0.0}
"""Elasticity of the signal in length that each policy asks for."""


def _policy(study: SignalStudy) -> Evidence | None:
    """Whether the signal follows the policy: within 0.1 of what it asks for. No policy is wrong in itself."""
    wanted = study.options.policy
    if wanted is None or wanted == "per-task":
        return None if wanted is None else _task_policy(study)
    reason, level = cannot_tell(study.example_lengths), study.options.level
    law = Estimate(math.nan, reason=reason) if reason else length_law(study, study.view, level)
    verdict = decide(law, TARGETS[wanted])
    if verdict == "insufficient data":
        detail = reason or law.reason or "no interval"
    else:
        detail = f"the elasticity of the signal (level {level}) in length is {with_interval(law)}"
        detail += f", the policy asks for {TARGETS[wanted]:.0f} \u00b1 0.1{_more_data(law, TARGETS[wanted])}"
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


def _more_data(estimate: Estimate, target: float) -> str:
    """How much data would decide, as a clause; empty where the interval decides."""
    if decide(estimate, target) != "inconclusive":
        return ""
    times = data_to_decide(estimate, target)
    if times > _MOST_DATA:
        return "; the value is at the edge of what the policy allows, and more data would hardly decide"
    return f"; about {number(max(2.0, math.ceil(times)))} times as many examples would decide"


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
    estimates = [group[column].times(count) for group in of.estimates]
    verdicts = {decide(estimate, 1.0) for estimate in estimates}
    worst = int(np.argmax([round(abs(estimate.value - 1.0), 9) for estimate in estimates]))
    is_off = "off target" in verdicts
    verdict = "off target" if is_off else "on target" if verdicts == {"on target"} else "inconclusive"
    return Evidence(
        f"Policy per-task: {verdict}; the task '{of.labels[worst]}' has {with_interval(estimates[worst])} times an "
        f"equal share of the signal{_more_data(estimates[worst], 1.0)}.",
        estimates[worst].value,
        estimates[worst].interval,
        "times an equal share",
        severity="warning" if is_off else "info",
        cure=fixes.TASK_WEIGHTS if is_off else "",
    )


SHARES_RULES: tuple[Rule[SignalStudy], ...] = (
    Rule(
        "NORM003",
        "info",
        "Whether the signal follows the policy given with --policy",
        "The policy is your choice; this only checks whether the loss does what you chose.",
        "the normalization that reaches the policy, where one does",
        _policy,
    ),
    NORM004.on(_concentrated),
    Rule(
        "NORM005",
        "warning",
        "A task, language or source whose share of the signal is far from its share of the tokens",
        "It is learned far faster or slower than its size suggests. This is right for a group that is hard or already "
        "learned, and wrong for one that is only short, long or mislabelled.",
        "read some of its rows; to change its share, give the group a weight of its own in the data",
        _group_off,
    ),
    Rule(
        "SIG001",
        "warning",
        "Much signal on tokens that the model already knows, or finds nearly impossible",
        "The model cannot learn noise without memorizing it: look for wrong labels, or formats new to the base model.",
        fixes.READ_ROWS,
        _wasted,
    ),
    Rule(
        "SIG003",
        "warning",
        "More or fewer ends of answers expected by the model than the data has",
        "The model runs on past the end of its answers, or stops early, whatever its loss is.",
        fixes.ENDS,
        _end_calibration,
    ),
)
