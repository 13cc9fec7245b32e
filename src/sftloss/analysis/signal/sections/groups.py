"""Tasks, languages, sources: whose examples receive the signal."""

from __future__ import annotations

import numpy as np

from sftloss.analysis.shared.shares import Shares, share_chart, share_table, shares
from sftloss.analysis.shared.words import alternative, group_name, label_of, tokens_and_signal
from sftloss.analysis.signal.frames import SignalStudy
from sftloss.analysis.signal.views import LEVELS
from sftloss.document import Section
from sftloss.numbers import Codes, Floats

SHOWN_GROUPS = 20  # groups shown; the smallest are added up
TITLES = {"task": "Tasks", "language": "Languages", "source": "Sources"}


def group_codes(study: SignalStudy, column: str) -> tuple[Codes, list[str]] | None:
    """A column of the examples as codes and names, the smallest groups added up; None where it has one group."""
    if column not in study.base.columns:
        return None
    codes, names = study.codes(column)
    if len(names) < 2:
        return None
    names = [label_of(column, name) for name in names]
    if len(names) > SHOWN_GROUPS:
        order = np.argsort(-np.bincount(codes), kind="stable")
        place = np.empty(len(names), dtype=np.int64)
        place[order] = np.minimum(np.arange(len(names)), SHOWN_GROUPS - 1)
        codes, names = (
            place[codes],
            [*(names[i] for i in order[: SHOWN_GROUPS - 1]), f"{len(names) - SHOWN_GROUPS + 1} smaller groups"],
        )
    return codes, names


def group_shares(study: SignalStudy, column: str) -> Shares | None:
    """Shares of examples, tokens and signal by a column of the examples; None where it has one group."""
    groups = group_codes(study, column)
    if groups is None:
        return None
    codes, names = groups
    heads = ["examples", "tokens", *study.rule_names]
    return shares(study.example_sums(codes, len(names), study.views, study.options.level), names, heads)


def group_section(study: SignalStudy, column: str) -> Section | None:
    """Shares by one grouping; None where there is nothing to group by."""
    of = group_shares(study, column)
    if of is None:
        return None
    signals = study.rule_names
    title = TITLES[column]
    table = share_table(of, id=column, title=title, first=column, signals=signals)
    chart = share_chart(of, id=f"{column}-shares", title=f"Shares by {column}", x_label=column, signals=signals)
    return Section(column, title, group_sentence(study, of, column), LEVELS[study.options.level], (chart,), (table,))


def group_sentence(study: SignalStudy, of: Shares, column: str) -> str:
    """The group whose shares lie farthest apart, in a sentence that needs no table."""
    group = int(np.argmax(moves(study, of)))
    signal = [float(of.column(rule.name)[group]) for rule in study.rules]
    has = tokens_and_signal(float(of.column("tokens")[group]), signal[0])
    return f"{group_name(column, of.labels[group])} {has}{alternative(signal, study.rules)}."


def moves(study: SignalStudy, of: Shares) -> Floats:
    """How far apart each group's shares of tokens and of signal lie."""
    columns = np.stack([of.column(name) for name in ("tokens", *study.rule_names)], axis=1)
    return np.asarray(np.nan_to_num(columns.max(axis=1) - columns.min(axis=1)), np.float64)
