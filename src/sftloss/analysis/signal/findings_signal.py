"""Findings about normalization and signal: whether the loss trains what its user says it should.

None of them calls a policy wrong in itself. Where a policy is declared the verdict is by a region of practical
equivalence; where it is not, only effects on output length and extreme concentration are reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from sftloss import numbers
from sftloss.analysis.lengths.findings import Shift, concentration_finding, example_mean_finding, micro_batch_finding
from sftloss.analysis.shared import fixes
from sftloss.analysis.shared.shares import Shares, with_interval
from sftloss.analysis.shared.words import by_times, group_name, holds_and_takes
from sftloss.analysis.signal.findings import share_of
from sftloss.analysis.signal.frames import Study
from sftloss.analysis.signal.sections.groups import group_codes, group_shares
from sftloss.analysis.signal.sections.length import is_bad_fit, length_law, length_misfit
from sftloss.analysis.signal.sections.tokens import band_shares, describe_band
from sftloss.analysis.signal.token_groups import BAND_NAMES, band_key
from sftloss.document import Finding
from sftloss.numbers import Estimate, decide, interval
from sftloss.weights import EXAMPLE_MEAN, Normalization
from sftloss.words import number, percent

TARGETS = {"per-token": 1.0, "per-example": 0.0}
ENDS_LOW, ENDS_HIGH = 0.8, 1.25  # expected over actual ends, beyond which stopping is off


def _shift(study: Study, normalization: Normalization) -> Shift:
    found = study.forecast(normalization)
    within = None if found.within_prompt is None else found.within_prompt.value
    return Shift(study.mean_length, found.unconditional, within, study.answers.cannot_tell)


def micro_batch_length(study: Study) -> Finding | None:
    """NORM001: token means of micro-batches shorten answers. The one in use, or the smallest that is compared."""
    used = study.options.normalization
    asked = [n for n in study.options.all_normalizations() if n.micro_batch is not None]
    if not asked:
        return None
    chosen = used if used.micro_batch is not None else min(asked, key=lambda n: n.micro_batch or 0)
    return micro_batch_finding(chosen.micro_batch or 1, _shift(study, chosen), is_used=used == chosen)


def example_mean_length(study: Study) -> Finding | None:
    """NORM002: the example mean teaches the harmonic mean length."""
    return example_mean_finding(_shift(study, EXAMPLE_MEAN), is_used=study.options.normalization == EXAMPLE_MEAN)


def policy(study: Study) -> Finding | None:
    """NORM003: whether signal follows the declared policy."""
    wanted = study.options.policy
    if wanted is None:
        return None
    if wanted == "per-task":
        return _task_policy(study)
    reason = numbers.cannot_tell(study.size)
    level = study.options.level
    estimate = Estimate(float("nan"), reason=reason) if reason else length_law(study, study.view, level)
    verdict = decide(estimate, TARGETS[wanted])
    said = f"elasticity of {level} signal in length {with_interval(estimate)}, wanted {TARGETS[wanted]:.0f} \u00b1 0.1"
    if verdict == "insufficient data":
        said = reason or estimate.reason or "no interval"
    elif is_bad_fit(study, study.view, level):
        # a mean slope on target may hide lengths that are all off it
        verdict = "inconclusive" if verdict == "on target" else verdict
        said += (
            f"; no power of length fits, {percent(length_misfit(study, study.view, level))} of the signal is elsewhere"
        )
    is_off = verdict == "off target"
    return Finding(
        "NORM003",
        "warning" if is_off else "info",
        f"Policy {wanted}: {verdict} ({said}).",
        "The policy is a choice; this says only whether the loss does what was chosen.",
        _fix_of_policy(study, estimate.value, TARGETS[wanted]) if is_off else "",
        estimate.value if np.isfinite(estimate.value) else None,
        estimate.interval,
        "elasticity",
    )


def _fix_of_policy(study: Study, slope: float, target: float) -> str:
    """The exponent that reaches the target, where the signal follows one: dividing by another T^a lowers it by a."""
    if study.view.normalization.micro_batch is not None:
        return fixes.GLOBAL_MEAN if target == 1 else fixes.alpha(1.0)
    alpha = round(study.options.normalization.alpha + slope - target, 2)
    if is_bad_fit(study, study.view, study.options.level) or not 0 <= alpha <= fixes.STEEPEST_ADVICE:
        return fixes.BY_HAND
    return fixes.alpha(alpha)


def _task_policy(study: Study) -> Finding:
    """Each task's signal share times the number of tasks: 1 is equal."""
    of = group_shares(study, "task")
    if of is None or len(of.labels) < 2 or (study.size > 0).sum() < 30:
        why = "fewer than two tasks" if of is None or len(of.labels) < 2 else "fewer than 30 examples"
        sentence = f"Policy per-task: insufficient data ({why})."
        return Finding("NORM003", "info", sentence, "Shares of one task say nothing.")
    column = of.columns.index(study.view.normalization.name)
    count = len(of.labels)
    estimates = [
        Estimate(count * float(of.value[g, column]), interval(count * of.replicates[:, g, column]))
        for g in range(count)
    ]
    verdicts = [decide(e, 1.0) for e in estimates]
    worst = int(np.argmax([abs(e.value - 1.0) for e in estimates]))
    verdict = "on target" if set(verdicts) == {"on target"} else "inconclusive"
    verdict = "off target" if "off target" in verdicts else verdict
    off = verdict == "off target"
    return Finding(
        "NORM003",
        "warning" if off else "info",
        f"Policy per-task: {verdict}; {of.labels[worst]} has {with_interval(estimates[worst])} times an equal share.",
        "The policy is a choice; this says only whether the loss does what was chosen.",
        "give each task a weight of its own in the data" if off else "",
        estimates[worst].value,
        estimates[worst].interval,
        "times an equal share",
    )


def concentrated(study: Study) -> Finding | None:
    """NORM004: few examples hold most of the signal."""
    signal = study.signal(study.view, study.options.level)[study.size > 0]
    if len(signal) < 100:
        return None  # the top 1 % is not one example
    rows = np.argsort(-study.signal(study.view, study.options.level), kind="stable")[:10]
    effective = numbers.kish_ess(signal) / len(signal)
    return concentration_finding(effective, numbers.top_share(signal, 0.01), study.options.level, study.origins(rows))


def group_off(study: Study) -> Finding | None:
    """NORM005: a group's signal share is over three times its token share, or under a third, interval and all.

    Groups of the same rows, as a task that is also a source, are one. The farthest is described, the others named.
    """
    groups = sorted(_off_groups(study), key=lambda group: -abs(np.log(max(group.ratio.value, 1e-12))))
    if not groups:
        return None
    worst = groups[0]
    same = [one for one in groups[1:] if np.array_equal(one.rows, worst.rows)]
    others = {one.rows.tobytes(): one.name for one in reversed(groups[1:]) if one not in same}
    aka = f" (the same rows as {' and '.join(_inside(one.name) for one in same)})" if same else ""
    sentence = f"{worst.name}{aka} {worst.said}: {by_times(worst.ratio.value)}."
    if others:
        sentence += f" So far off are also {', '.join(_inside(name) for name in list(others.values())[::-1][:5])}."
    return Finding(
        "NORM005",
        "warning",
        sentence,
        "It learns far faster or slower than its size suggests: right where it is hard or already known, wrong where "
        "it is only short, long or mislabelled.",
        "read a few of its rows; to change it, give the group a weight of its own in the data",
        worst.ratio.value,
        worst.ratio.interval,
        "ratio",
        study.origins(worst.rows[:10]),
    )


@dataclass(frozen=True, eq=False)
class _OffGroup:
    """A group whose part of the signal is not its part of the tokens; `rows` are its examples."""

    name: str
    rows: np.ndarray
    ratio: Estimate
    said: str


def _off_groups(study: Study) -> Iterator[_OffGroup]:
    current = study.view.normalization.name
    for column in study.options.group_by:
        coded, of = group_codes(study, column), group_shares(study, column)
        if coded is None or of is None:
            continue
        for code, label in enumerate(coded[1]):
            group = of.labels.index(label)
            ratio = of.ratio(group, current, "tokens")
            if ratio.interval is None or not (ratio.interval.low > 3.0 or ratio.interval.high < 1.0 / 3.0):
                continue
            said = holds_and_takes(float(of.column("tokens")[group]), float(of.column(current)[group]))
            said += f" at {study.options.level}"
            yield _OffGroup(group_name(column, label), np.flatnonzero(coded[0] == code), ratio, said)


def _inside(name: str) -> str:
    """The name of a group inside a sentence."""
    return name[0].lower() + name[1:]


def wasted(study: Study) -> Finding | None:
    """SIG001: much signal on tokens the model finds certain, or impossible."""
    current = study.view.normalization.name
    of = band_shares(study)
    sure, unsure = describe_band(of, BAND_NAMES[-1], current), describe_band(of, BAND_NAMES[0], current)
    if not (sure[1] > 0.2 or unsure[1] > 0.25):
        return None
    if unsure[1] > 0.25 and unsure[0] > 0.2:
        return _unfamiliar(of)
    low = unsure[1] > 0.25
    band, (tokens, signal) = (BAND_NAMES[0], unsure) if low else (BAND_NAMES[-1], sure)
    cut = _rows_of_band(study, 0 if low else len(BAND_NAMES) - 1)
    shown = of.intervals[of.labels.index(band)][of.columns.index(current)]
    why = "The model cannot learn noise without memorising it: look for wrong labels or formats the base never saw."
    return Finding(
        "SIG001",
        "warning",
        f"{percent(tokens)} of the tokens have {band}, and they take {percent(signal)} of the training signal at "
        f"{study.options.level}.",
        why if low else "These tokens are known; the loss spends its strength on them.",
        fixes.READ_ROWS if low else fixes.FOCAL,
        signal,
        shown,
        "share of signal",
        study.origins(cut),
    )


def _unfamiliar(of: Shares) -> Finding:
    """SIG001 where the model knows so little that rare surprises cannot be told from the rest."""
    tokens = float(of.column("tokens")[of.labels.index(BAND_NAMES[0])])
    return Finding(
        "SIG001",
        "info",
        f"This model gives {percent(tokens)} of the trained tokens less than 1 %: it hardly knows this data yet.",
        "Shares by confidence are those of an untrained model, or of one that meets a new language or template. "
        "Wrong labels cannot be told from what is merely new; look again after some training.",
        "",
        tokens,
        of.intervals[of.labels.index(BAND_NAMES[0])][of.columns.index("tokens")],
        "share of tokens",
    )


def _rows_of_band(study: Study, band: int) -> np.ndarray:
    """The examples with most signal in a band."""
    l1 = pl.col("u") * pl.col(f"l1:{study.objective}").cast(pl.Float64)
    signal = np.zeros(len(study.ids))
    for rows, chunk in study.trained(["target_logprob"]):
        held = chunk.select(pl.when(band_key() == band).then(l1).otherwise(0.0)).to_series().to_numpy()
        signal += np.bincount(rows, held, len(signal))  # an example is in one chunk
    signal *= study.factor(study.options.normalization)
    order = np.argsort(-signal, kind="stable")[:10]
    return order[signal[order] > 0]


def end_calibration(study: Study) -> Finding | None:
    """SIG003: the model expects far more or far fewer ends than there are, interval and all.

    Expected are the probabilities of an end token summed over the trained tokens of answers. Examples that show no
    end token do not count: which token would end them is not known.
    """
    seen = study.column("ends_seen")
    if seen.sum() < 30:
        return None
    ratio, spread = share_of(study, study.column("ends_expected"), seen)
    if spread is None or (spread.high >= ENDS_LOW and spread.low <= ENDS_HIGH):
        return None
    runs_on = ratio < 1
    # a tenth of the ends, or text that the model hardly knows: it has not met this way of ending answers yet
    is_new = ratio < 0.1 or describe_band(band_shares(study), BAND_NAMES[0], "tokens")[0] > 0.2
    return Finding(
        "SIG003",
        "info" if is_new else "warning",
        f"The model expects {number(ratio)} ends for each end of an answer that the data has.",
        "It has not learned yet where these answers end: training must teach it, so their ends must be trained."
        if is_new
        else f"It {'runs on past the end' if runs_on else 'stops early'}, whatever its loss is.",
        fixes.ENDS if runs_on else fixes.ENDS_ONLY,
        ratio,
        spread,
        "expected over actual ends",
    )


SIGNAL_FINDINGS = (micro_batch_length, example_mean_length, policy, concentrated, group_off, wasted, end_calibration)
