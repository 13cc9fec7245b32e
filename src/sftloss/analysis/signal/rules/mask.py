"""The findings about masks and data that a measured table shows: faults that `inspect` looks for in the rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sftloss.analysis.mask.rules import INSPECT_RULES
from sftloss.analysis.shared import fixes
from sftloss.analysis.signal.frames import SignalStudy
from sftloss.analysis.signal.gradients import GradientStudy
from sftloss.data.account import ROW_RULES
from sftloss.document import Interval, Severity
from sftloss.numbers import Estimate, by_unit, share_estimates
from sftloss.rules import Evidence, Rule, rule_of
from sftloss.words import agreeing, counted, part_of, percent

MOST_ROWS = 10


def share_of(
    study: SignalStudy | GradientStudy,
    part: np.ndarray,
    whole: np.ndarray | None = None,
    method: Callable[..., list[Estimate]] = share_estimates,
) -> tuple[float, Interval | None]:
    """Share of the examples, or of what they hold in `whole`, with its interval."""
    whole = np.ones(len(part)) if whole is None else whole
    units, sums = by_unit(study.units, np.stack([part, whole], axis=1))
    draws = {"replicates": study.options.replicates, "seed": study.options.seed}
    (share,) = method(sums[:, :1], sums[:, 1:], units, **draws)
    return share.value, share.interval


def rows_where(study: SignalStudy, mask: np.ndarray) -> tuple[str, ...]:
    return study.origins(np.flatnonzero(mask)[:MOST_ROWS])


def _nothing_trained(study: SignalStudy) -> Evidence | None:
    """MASK001: examples without a trained token. One whose loss is not finite is trained, and is NUM001's."""
    empty = (study.size <= 0) & (study.column("nonfinite") == 0)
    if not empty.any():
        return None
    share, spread = share_of(study, empty)
    sentence = f"{part_of(int(empty.sum()), len(empty), 'examples', 'train no token at all')}."
    severity: Severity | None = "error" if share > 0.5 else None
    rows = rows_where(study, empty)
    return Evidence(sentence, share, spread, "share of examples", rows, severity, cure=fixes.INSPECT)


def _end_untrained(study: SignalStudy) -> Evidence | None:
    """MASK003: answers whose end is not trained. A truncated answer has no end and is MASK007's."""
    whole = (study.size > 0) & ~study.cut
    missing = whole & (study.column("ends") == 0)
    share, spread = share_of(study, missing, whole)
    if not share > 0.01:
        return None
    never = not (study.column("ends") > 0).any()
    sentence = f"{percent(share)} of the examples train no end-of-turn or end-of-sequence token"
    sentence += ": no end is trained at all." if never else "."
    severity: Severity | None = "error" if share > 0.5 else None
    rows = rows_where(study, missing)
    return Evidence(sentence, share, spread, "share of examples", rows, severity, cure=fixes.INSPECT)


def _opener_trained(study: SignalStudy) -> Evidence | None:
    """MASK005: the first trained token is nearly always the same and already certain, as a role opener is."""
    first = study.column("first_token")[study.size > 0]
    if len(first) < 30:
        return None
    values, counts = np.unique(first, return_counts=True)
    share = float(counts.max() / len(first))
    same = (study.column("first_token") == values[counts.argmax()]) & (study.size > 0)
    certain = float(study.column("first_p")[same].mean())
    if share < 0.95 or not certain > 0.99:
        return None
    sentence = (
        f"The first trained token is the same in {percent(share)} of the examples, and the model gives it p = "
        f"{certain:.3f} on average: it looks like the role opener of the template."
    )
    spread, rows = share_of(study, same, study.size > 0)[1], rows_where(study, same)[:3]
    return Evidence(sentence, share, spread, "share of examples", rows, "info", cure=fixes.INSPECT)


def _truncated(study: SignalStudy) -> Evidence | None:
    """MASK007: examples that were cut off."""
    cut = study.cut
    if not cut.any():
        return None
    share, spread = share_of(study, cut)
    lost = int((cut & (study.column("ends") == 0)).sum())
    cut_off = part_of(int(cut.sum()), len(cut), "examples", "are cut off")
    sentence = f"{cut_off}; {lost:,} of them {agreeing(lost, 'train')} no end."
    severity: Severity = "warning" if share > 0.01 else "info"
    rows = rows_where(study, cut)
    return Evidence(sentence, share, spread, "share of examples", rows, severity, cure=fixes.LONGER)


def _other_roles_trained(study: SignalStudy) -> Evidence | None:
    """MASK010: user, system or tool tokens are trained beside answers."""
    other, size = study.column("other_roles"), study.size
    if not other.sum() > 0 or not study.column("answer").any():
        return None
    share, spread = share_of(study, other, size)
    sentence = f"{percent(share)} of the training weight is on prompt, system or tool tokens."
    severity: Severity | None = "info" if study.options.role_weights else None
    rows = rows_where(study, other > 0)
    return Evidence(sentence, share, spread, "share of weight", rows, severity, cure=fixes.ANSWERS_ONLY)


def _repeated(study: SignalStudy) -> Evidence | None:
    """DATA102: examples with the tokens of an earlier one, trained alike. What is cut off may differ."""
    known = np.flatnonzero((study.size > 0) & ~study.cut)
    first = known[np.unique(study.base["content"].to_numpy()[known], return_index=True)[1]]
    again = np.setdiff1d(known, first)
    if not len(again):
        return None
    signal, level = study.signal(study.view, study.options.level), study.options.level
    is_again = np.isin(np.arange(len(signal)), again)
    share, spread = share_of(study, is_again)
    sentence = (
        f"{part_of(len(again), len(signal), 'examples', 'repeat an earlier one exactly')}. Their part of the training "
        f"signal is {percent(float(signal[again].sum() / (signal.sum() or 1.0)))} (level {level})."
    )
    severity: Severity = "warning" if share > 0.01 else "info"
    return Evidence(sentence, share, spread, "share of examples", rows_where(study, is_again), severity)


def _not_finite(study: SignalStudy) -> Evidence | None:
    bad = study.column("nonfinite")
    if not bad.any():
        return None
    share, spread = share_of(study, bad, study.column("count") + bad)
    tokens, have = counted(int(bad.sum()), "trained token"), agreeing(int(bad.sum()), "have")
    sentence = f"{tokens} ({percent(share)} of all) {have} a NaN or infinite loss or gradient."
    return Evidence(sentence, share, spread, "share of trained tokens", rows_where(study, bad > 0))


NUM001 = Rule(
    "NUM001",
    "error",
    "A loss or gradient that is NaN or infinite",
    "One such token makes the whole training step NaN. All numbers of this report leave these tokens out.",
    fixes.READ_ROWS,
    _not_finite,
)
MASK_RULES: tuple[Rule[SignalStudy], ...] = (
    NUM001,
    rule_of(ROW_RULES, "MASK001").on(_nothing_trained),
    rule_of(INSPECT_RULES, "MASK003").on(_end_untrained),
    rule_of(INSPECT_RULES, "MASK005").on(_opener_trained),
    rule_of(ROW_RULES, "MASK007").on(_truncated),
    rule_of(INSPECT_RULES, "MASK010").on(_other_roles_trained),
    rule_of(INSPECT_RULES, "DATA102").on(_repeated),
)
