"""The findings about shares of the signal: examples, groups, bands of confidence, the ends of answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from sftloss.analysis.lengths.rules import NORM004, concentration
from sftloss.analysis.shared import fixes
from sftloss.analysis.shared.shares import Shares
from sftloss.analysis.shared.words import group_name, inside_sentence, tokens_and_signal
from sftloss.analysis.signal.frames import SignalStudy, signal_expr
from sftloss.analysis.signal.rules.mask import share_of
from sftloss.analysis.signal.sections.groups import group_codes, group_shares
from sftloss.analysis.signal.sections.tokens import band_shares
from sftloss.analysis.signal.token_groups import BAND_NAMES, band_key
from sftloss.numbers import Estimate
from sftloss.rules import Evidence, Rule
from sftloss.words import listed, number, percent

ENDS_LOW, ENDS_HIGH = 0.8, 1.25  # expected over actual ends, beyond which stopping is off
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
    of, known, unlikely = band_shares(study), BAND_NAMES[-1], BAND_NAMES[0]
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
    why = "The model knows these tokens already; the loss spends its strength on them."
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
        "Wrong labels cannot be told from what is merely new; look again after some training.",
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
    ratio, spread = share_of(study, study.column("ends_expected"), seen)
    if spread is None or (spread.high >= ENDS_LOW and spread.low <= ENDS_HIGH):
        return None
    runs_on = ratio < 1
    # a tenth of the ends, or text that the model hardly knows: it has not met this way of ending answers yet
    is_new = ratio < 0.1 or band_shares(study).share(BAND_NAMES[0], "tokens") > 0.2
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


SHARES_RULES: tuple[Rule[SignalStudy], ...] = (
    NORM004.on(_concentrated),
    Rule(
        "NORM005",
        "warning",
        "A task, language or source whose share of the signal is far from its share of the tokens",
        "It is learned far faster or slower than its size suggests. That is right where it is hard or already known, "
        "and wrong where it is only short, long or mislabelled.",
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
