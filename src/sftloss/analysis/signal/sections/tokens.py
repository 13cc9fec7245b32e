"""Which tokens get the signal: by role, by confidence, by position, and at the end of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sftloss.analysis.shared.shares import Shares, cell, share_chart, share_table, shares
from sftloss.analysis.shared.words import alternative
from sftloss.analysis.signal.frames import SignalStudy
from sftloss.analysis.signal.token_groups import BAND_NAMES, groupings, token_sums
from sftloss.analysis.signal.views import LEVELS, View
from sftloss.document import Cell, Chart, Column, Section, Series, Table
from sftloss.roles import ROLES
from sftloss.weights import TOKEN_MEAN
from sftloss.words import number, percent


def token_shares(study: SignalStudy, grouping: str) -> Shares:
    """Shares of tokens, of loss, and of signal under each normalization, in the groups of one of `groupings()`."""

    def make() -> Shares:
        heads = ["tokens", "loss", *study.rule_names]
        columns = ["tokens", "loss", *(f"signal {view.label}" for view in study.views)]
        return shares(token_sums(study, grouping, columns), groupings()[grouping].names, heads)

    return study.once(("token shares", grouping), make)


def roles_section(study: SignalStudy) -> Section:
    """Shares of tokens and signal by role."""
    of, everything = token_shares(study, "role"), _all_tokens(study)
    parts = ", ".join(f"{label} {percent(of.share(label, study.current))}" for label in of.labels)
    lead = f"Under {study.current} the signal goes to: {parts or 'no token at all'}."
    if of.labels == ("response",):
        rest = " and ".join(f"{k} {percent(v)}" for k, v in everything.items() if k != "response" and v > 0)
        lead = f"Only answers are trained: {percent(everything['response'])} of all tokens."
        lead += f" The rest is read and not trained: {rest}." if rest else ""
    table = share_table(of, id="roles", title="Roles", first="role", signals=study.rule_names)
    heads = (table.columns[0], Column("all", "all tokens", "percent", "trained or not"), *table.columns[1:])
    rows = [(row[0], everything[str(row[0])], *row[1:]) for row in table.rows]
    zeros = tuple(None if column.key.endswith(("_low", "_high")) else 0.0 for column in table.columns[1:])
    rows += [(role, share, *zeros) for role, share in everything.items() if share > 0 and role not in of.labels]
    table = replace(table, columns=heads, rows=tuple(rows))
    chart = share_chart(of, id="role-shares", title="Shares by role", x_label="role", signals=study.rule_names)
    names = tuple(str(row[0]) for row in rows)
    trained = chart.series if len(of.labels) > 1 else ()  # one role alone has everything
    bars = (Series("all tokens", names, tuple(everything[name] for name in names)), *trained)
    described = chart.description if trained else f"All tokens: {_listed_shares(everything)}."
    chart = replace(chart, series=bars, description=described)
    return Section("roles", "Roles", lead, LEVELS[study.options.level], (chart,), (table,))


def _listed_shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {percent(share)}" for name, share in shares.items() if share > 0)


def _all_tokens(study: SignalStudy) -> dict[str, float]:
    """Share of each role among all tokens, trained or not. The first of an example is no target, and no row."""
    counts = {role: float(study.column(f"all {role}").sum()) for role in ROLES}
    if "first_role" in study.base.columns:
        for role, count in zip(
            ROLES, np.bincount(study.base["first_role"].to_numpy(), minlength=len(ROLES)), strict=True
        ):
            counts[role] += float(count)
    total = max(1.0, sum(counts.values()))
    return {role: count / total for role, count in counts.items()}


def confidence_section(study: SignalStudy) -> Section:
    """Shares by confidence, and how strongly each loss pushes at each confidence."""
    of, level = token_shares(study, "band"), LEVELS[study.options.level]
    parts = [
        f"{percent(of.share(band, 'tokens'))} of the tokens have {band} and get "
        f"{percent(of.share(band, study.current))} of the signal"
        for band in (BAND_NAMES[0], BAND_NAMES[-1])
        if band in of.labels
    ]
    lead = f"{'; '.join(parts)}." if parts else "No token has p < 0.01 or p \u2265 0.99."
    first = "p of the target"
    table = share_table(of, id="confidence", title="Confidence", first=first, signals=study.rule_names)
    title = "Shares by confidence"
    chart = share_chart(of, id="confidence-shares", title=title, x_label=first, signals=study.rule_names)
    if study.objectives == ("cross_entropy",):  # its factor is 1 everywhere, by definition
        notes = ("Add a second loss, for example --loss 'focal(gamma=2)', to compare the losses at each confidence.",)
        return Section("confidence", "Confidence", lead, level, (chart,), (table,), notes=notes)
    factors, factor_table = _factors(study)
    return Section("confidence", "Confidence", lead, level, (chart, factors), (table, factor_table))


def _factors(study: SignalStudy) -> tuple[Chart, Table]:
    """L1 norm of each loss's logit gradient over cross-entropy's, 2 (1 - p), by band."""
    sums = token_sums(study, "band", ["ask", *(f"l1 {name}" for name in study.objectives)]).total
    with np.errstate(invalid="ignore", divide="ignore"):
        factors = [tuple(map(cell, sums[:, 1 + i] / sums[:, 0])) for i in range(len(study.objectives))]
    bands = tuple(BAND_NAMES)
    series = [Series(name, bands, factor) for name, factor in zip(study.objectives, factors, strict=True)]
    if "cross_entropy" not in study.objectives:  # else its own line is the reference
        series.append(Series("cross-entropy", bands, (1.0,) * len(bands), is_reference=True))
    title = "Strength of each loss relative to cross-entropy"
    described = "Gradient factor by confidence. 1 is cross-entropy; below 1 the loss gives these tokens less weight."
    chart = Chart(
        "gradient-factor", "line", title, "p of the target", "factor", tuple(series), described, "category",
        format_x="text", format_y="ratio",
    )  # fmt: skip
    heads = (Column("band", "p of the target"), *(Column(f"f{i}", n, "ratio") for i, n in enumerate(study.objectives)))
    rows = tuple((band, *(factor[i] for factor in factors)) for i, band in enumerate(bands))
    return chart, Table("gradient-factor", title, heads, rows, "L1 norm of the logit gradient over 2 (1 - p).")


def positions_section(study: SignalStudy) -> Section:
    """The first tokens of an answer, tenths of it, and its end."""
    first, tenth = token_shares(study, "first"), token_shares(study, "tenth")
    lead = "No token is trained."
    if first.labels:
        tokens, loss, signal = (percent(first.column(name)[0]) for name in ("tokens", "loss", study.current))
        lead = (
            f"The first trained tokens of the examples are {tokens} of the tokens, {loss} of the loss and {signal} of "
            f"the signal. {_end_sentence(study)}"
        )
    tables, charts = [], []
    for key, title, of in (
        ("position-first", "The first tokens", first),
        ("position-tenths", "Along the answer", tenth),
    ):
        tables.append(share_table(of, id=key, title=title, first="trained tokens", signals=study.rule_names))
        x_label = "from the first trained token"
        # all later tokens together have nearly everything: beside them the first ones would be flat
        charts.append(
            share_chart(of.without("later"), id=f"{key}-shares", title=title, x_label=x_label, signals=study.rule_names)
        )
    notes = ("Positions count from an example's first trained token to its last.", _calibration(study))
    tables.append(_ends_table(study))
    title, level = "Positions and the end", LEVELS[study.options.level]
    return Section("positions", title, lead, level, tuple(charts), tuple(tables), notes=notes)


def _calibration(study: SignalStudy) -> str:
    expected, seen = float(study.column("ends_expected").sum()), int(study.column("ends_seen").sum())
    if not seen:
        return "No answer shows an end token, so whether the model stops where answers end is not known."
    return (
        f"Calibration of the end: over all trained tokens of answers the model expects {number(expected)} ends, and "
        f"the data has {seen:,}. The ratio is {number(expected / seen)}; 1 is right."
    )


def _end_sentence(study: SignalStudy) -> str:
    of = token_shares(study, "end")
    if "end" not in of.labels:
        return "No end of a turn or sequence is trained."
    signal = [of.share("end", rule.name) for rule in study.rules]
    return (
        f"The tokens that end an answer are {percent(of.share('end', 'tokens'))} of the tokens and get "
        f"{percent(signal[0])} of the signal{alternative(signal, study.rules)}."
    )


def _ends_table(study: SignalStudy) -> Table:
    """Trained tokens at ends and elsewhere: count, mean p, mean loss."""
    sums = token_sums(study, "end", ["tokens", "u", "p", "u loss"])
    rows: list[tuple[Cell, ...]] = []
    for name, (n, u, total_p, total_loss) in zip(("inside", "end"), sums.total, strict=True):
        rows.append((name, int(n), cell(total_p / u) if u else None, cell(total_loss / u) if u else None))
    heads = (Column("where", "where"), Column("count", "tokens", "integer"), Column("p", "mean p", "percent"))
    return Table("ends", "The end of the answer", (*heads, Column("loss", "mean loss", "nats")), tuple(rows))


def mean_loss(study: SignalStudy, objective: str) -> float:
    """Mean loss of a trained token under the token mean, in nats."""
    return float(study.signal(View(objective, TOKEN_MEAN), "loss").sum())
