"""Findings about the mask and the data: what is trained that should not be, and what is not that should.

Ids are stable and suppressible. Each function returns one finding, or None where there is nothing to say.
"""

from __future__ import annotations

import numpy as np

from sftloss.analysis.lengths.findings import conflict_finding
from sftloss.analysis.mask.rules import why
from sftloss.analysis.shared import fixes
from sftloss.analysis.signal.frames import Study
from sftloss.data import ROW_REASONS
from sftloss.document import Finding, Interval
from sftloss.numbers import GroupSums, ratio_interval
from sftloss.words import percent

MOST_ROWS = 10


def share_of(study: Study, part: np.ndarray, whole: np.ndarray) -> tuple[float, Interval | None]:
    """Share of examples, or of what they hold, with its interval."""
    columns = np.stack([part, whole], axis=1).astype(np.float64)
    sums = GroupSums(1, 2, replicates=study.options.replicates, seed=study.options.seed).add(study.units, columns)
    top, bottom = sums.total[0]
    value = float(top / bottom) if bottom > 0 else float("nan")
    return value, ratio_interval(sums.replicates[:, 0, 0], sums.replicates[:, 0, 1])


def rows_where(study: Study, mask: np.ndarray) -> tuple[str, ...]:
    return study.origins(np.flatnonzero(mask)[:MOST_ROWS])


def nothing_trained(study: Study) -> Finding | None:
    """MASK001: examples without a trained token."""
    empty = study.size <= 0
    if not empty.any():
        return None
    share, spread = share_of(study, empty, np.ones(len(empty)))
    return Finding(
        "MASK001",
        "error" if share > 0.5 else "warning",
        f"{int(empty.sum()):,} of {len(empty):,} examples ({percent(share)}) train no token at all.",
        ROW_REASONS["nothing-trained"].why,
        fixes.INSPECT,
        share,
        spread,
        "share of examples",
        rows_where(study, empty),
    )


def end_untrained(study: Study) -> Finding | None:
    """MASK003: answers whose end is not trained. A truncated answer has no end and is MASK007's."""
    whole = (study.size > 0) & ~_truncated(study)
    missing = whole & (study.column("ends") == 0)
    share, spread = share_of(study, missing, whole)
    if not share > 0.01:
        return None
    never = not (study.column("ends") > 0).any()
    return Finding(
        "MASK003",
        "error" if share > 0.5 else "warning",
        f"{percent(share)} of the examples train no end-of-turn or end-of-sequence token"
        + (": no end is trained at all." if never else "."),
        why("MASK003"),
        fixes.INSPECT,
        share,
        spread,
        "share of examples",
        rows_where(study, missing),
    )


def opener_trained(study: Study) -> Finding | None:
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
    return Finding(
        "MASK005",
        "info",
        f"The first trained token is the same in {percent(share)} of the examples and its mean p is {certain:.3f}: "
        "it looks like the role opener of the template.",
        why("MASK005"),
        fixes.INSPECT,
        share,
        share_of(study, same, study.size > 0)[1],
        "share of examples",
        rows_where(study, same)[:3],
    )


def truncated(study: Study) -> Finding | None:
    """MASK007: examples that were cut off."""
    cut = _truncated(study)
    if not cut.any():
        return None
    share, spread = share_of(study, cut, np.ones(len(cut)))
    lost = cut & (study.column("ends") == 0)
    return Finding(
        "MASK007",
        "warning" if share > 0.01 else "info",
        f"{int(cut.sum()):,} examples ({percent(share)}) are cut off; {int(lost.sum()):,} of them train no end at all.",
        ROW_REASONS["truncated-away"].why,
        fixes.LONGER,
        share,
        spread,
        "share of examples",
        rows_where(study, cut),
    )


def other_roles_trained(study: Study) -> Finding | None:
    """MASK010: user, system or tool tokens are trained beside answers."""
    other, size = study.column("other_roles"), study.size
    if not other.sum() > 0 or not study.column("answer").any():
        return None
    share, spread = share_of(study, other, size)
    return Finding(
        "MASK010",
        "info" if study.options.role_weights else "warning",
        f"{percent(share)} of the training weight is on prompt, system or tool tokens.",
        why("MASK010"),
        fixes.ANSWERS_ONLY,
        share,
        spread,
        "share of weight",
        rows_where(study, other > 0),
    )


def prompt_conflict(study: Study) -> Finding | None:
    """DATA103: the same prompt with answers of different length, the condition under which the tilt acts."""
    answers = study.answers
    if not answers.seen.any():
        return None
    share = study.spread.ratio(answers.seen.astype(np.float64), np.ones(len(answers.seen)))
    ids = np.unique(answers.ids[answers.seen])[:MOST_ROWS]
    return conflict_finding(share.value, share.interval, study.origins(np.searchsorted(study.ids, ids)))


def not_finite(study: Study) -> Finding | None:
    """NUM001: trained tokens whose loss or gradient is NaN or infinite; they are left out of every sum."""
    bad = study.column("nonfinite")
    if not bad.any():
        return None
    share, spread = share_of(study, bad, study.column("count") + bad)
    return Finding(
        "NUM001",
        "error",
        f"{int(bad.sum())} trained tokens ({percent(share)}) have a NaN or infinite loss or gradient.",
        "One of them makes the whole step NaN in training. All numbers here leave them out.",
        fixes.READ_ROWS,
        share,
        spread,
        "share of trained tokens",
        rows_where(study, bad > 0),
    )


def _truncated(study: Study) -> np.ndarray:
    if "truncated" not in study.base.columns:
        return np.zeros(len(study.ids), dtype=bool)
    return np.nan_to_num(study.column("truncated")) > 0


MASK_FINDINGS = (
    not_finite,
    nothing_trained,
    end_untrained,
    opener_trained,
    truncated,
    other_roles_trained,
    prompt_conflict,
)
