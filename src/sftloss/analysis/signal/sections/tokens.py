"""Which tokens receive the signal: by role, by confidence, by position, and at the end of the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sftloss.analysis.shared.shares import Shares, cell, largest, share_chart, share_table, shares
from sftloss.analysis.shared.words import as_clause
from sftloss.analysis.signal.frames import SignalStudy
from sftloss.analysis.signal.token_groups import BAND_NAMES, groupings, token_sums
from sftloss.analysis.signal.views import LEVELS, View
from sftloss.document import Cell, Chart, Column, Section, Series, Table
from sftloss.roles import ROLES
from sftloss.weights import TOKEN_MEAN
from sftloss.words import number, percent


def token_shares(study: SignalStudy, grouping: str, *, with_loss: bool = False) -> Shares:
    """Shares of tokens, of loss where wanted, and of signal under each normalization."""

    def make() -> Shares:
        heads = ["tokens", *(["loss"] if with_loss else []), *_signals(study)]
        columns = [name if name in ("tokens", "loss") else f"signal {name}" for name in heads]
        return shares(token_sums(study, grouping, columns), groupings()[grouping].names, heads)

    return study.once((grouping, with_loss), make)


def _signals(study: SignalStudy) -> tuple[str, ...]:
    return tuple(view.normalization.name for view in study.views)


def band_shares(study: SignalStudy) -> Shares:
    return token_shares(study, "band", with_loss=True)


def roles_section(study: SignalStudy) -> Section:
    """Shares of tokens and signal by role."""
    of = token_shares(study, "role")
    current = study.view.normalization.name
    parts = ", ".join(f"{label} {percent(v)}" for label, v in zip(of.labels, of.column(current), strict=True))
    lead = f"Under {current} the signal goes to: {parts or 'no token at all'}."
    everything = _all_tokens(study)
    if of.labels == ("response",):
        rest = " and ".join(f"{k} {percent(v)}" for k, v in everything.items() if k != "response" and v > 0)
        lead = f"Only answers are trained, {percent(everything['response'])} of all tokens"
        lead += f"; {rest} is read and not trained." if rest else "."
    table = share_table(of, id="roles", title="Roles", first="role", signals=_signals(study))
    untrained = tuple(k for k, v in everything.items() if v > 0 and k not in of.labels)
    heads = (table.columns[0], Column("all", "all tokens", "percent", "trained or not"), *table.columns[1:])
    rows = [(row[0], everything[str(row[0])], *row[1:]) for row in table.rows]
    none = tuple(None if column.key.endswith(("_low", "_high")) else 0.0 for column in table.columns[1:])
    rows += [(k, everything[k], *none) for k in untrained]
    table = replace(table, columns=heads, rows=tuple(rows))
    chart = share_chart(of, id="role-shares", title="Shares by role", x_label="role", description=largest(of))
    bars = (
        Series("all tokens", tuple(str(row[0]) for row in rows), tuple(everything[str(row[0])] for row in rows)),
        *chart.series,
    )
    return Section("roles", "Roles", lead, LEVELS[study.options.level], (replace(chart, series=bars),), (table,))


def _all_tokens(study: SignalStudy) -> dict[str, float]:
    """Share of each role among all tokens that could be predicted, trained or not."""
    counts = {role: float(study.column(f"all {role}").sum()) for role in ROLES}
    total = max(1.0, sum(counts.values()))
    return {role: count / total for role, count in counts.items()}


def confidence_section(study: SignalStudy) -> Section:
    """Shares by confidence, and how strongly each loss pushes at each confidence."""
    of = band_shares(study)
    current = study.view.normalization.name
    said = [
        f"{percent(t)} of the tokens have {label} and get {percent(s)} of the signal"
        for label, t, s in zip(of.labels, of.column("tokens"), of.column(current), strict=True)
        if label in (BAND_NAMES[0], BAND_NAMES[-1])
    ]
    lead = f"{'; '.join(said)}." if said else "No token has p < 0.01 or p \u2265 0.99."
    table = share_table(of, id="confidence", title="Confidence", first="p of the target", signals=_signals(study))
    chart = share_chart(
        of, id="confidence-shares", title="Shares by confidence", x_label="p of the target", description=largest(of)
    )
    level = LEVELS[study.options.level]
    if study.objectives == ("cross_entropy",):  # its factor is 1 everywhere, by definition
        notes = ("Name a second loss, as --loss 'focal(gamma=2)', to see at which confidence it pulls harder or less.",)
        return Section("confidence", "Confidence", lead, level, (chart,), (table,), notes=notes)
    factors, factor_table = _factors(study)
    return Section("confidence", "Confidence", lead, level, (chart, factors), (table, factor_table))


def _factors(study: SignalStudy) -> tuple[Chart, Table]:
    """L1 norm of each loss's logit gradient over cross-entropy's, 2 (1 - p), by band."""
    sums = token_sums(study, "band", ["ask", *(f"l1 {name}" for name in study.objectives)]).total
    series, columns = [], []
    for index, name in enumerate(study.objectives):
        with np.errstate(invalid="ignore", divide="ignore"):
            y = tuple(cell(v) for v in sums[:, 1 + index] / sums[:, 0])
        series.append(Series(name, tuple(BAND_NAMES), y))
        columns.append(y)
    if "cross_entropy" not in study.objectives:  # else its own line is the reference
        series.append(Series("cross-entropy", tuple(BAND_NAMES), (1.0,) * len(BAND_NAMES), is_reference=True))
    title = "Strength of each loss relative to cross-entropy"
    described = "Gradient factor by confidence. 1 is cross-entropy; below 1 the loss lets these tokens rest."
    chart = Chart(
        "gradient-factor", "line", title, "p of the target", "factor", tuple(series), described, "category",
        format_x="text", format_y="ratio",
    )  # fmt: skip
    heads = (Column("band", "p of the target"), *(Column(f"f{i}", n, "ratio") for i, n in enumerate(study.objectives)))
    rows = tuple((band, *(column[i] for column in columns)) for i, band in enumerate(BAND_NAMES))
    return chart, Table("gradient-factor", title, heads, rows, "L1 norm of the logit gradient over 2 (1 - p).")


def positions_section(study: SignalStudy) -> Section:
    """The first tokens of an answer, tenths of it, and its end."""
    first = token_shares(study, "first", with_loss=True)
    tenth = token_shares(study, "tenth", with_loss=True)
    current = study.view.normalization.name
    lead = "No token is trained."
    if first.labels:
        tokens, loss, signal = (first.column(name)[0] for name in ("tokens", "loss", current))
        lead = (
            f"The first trained tokens of the examples are {percent(tokens)} of the tokens, {percent(loss)} of the "
            f"loss and {percent(signal)} of the signal. {_end_sentence(study)}"
        )
    charts, tables = [], []
    names = (("position-first", "The first tokens", first), ("position-tenths", "Along the answer", tenth))
    for key, title, of in names:
        tables.append(share_table(of, id=key, title=title, first="trained tokens", signals=_signals(study)))
        charts.append(
            share_chart(
                of, id=f"{key}-shares", title=title, x_label="from the first trained token", description=largest(of)
            )
        )
    notes = (
        "Positions count from an example's first trained token to its last.",
        _calibration(study),
    )
    ends = _ends_table(study)
    level = LEVELS[study.options.level]
    return Section("positions", "Positions and the end", lead, level, tuple(charts), (*tables, ends), notes=notes)


def _calibration(study: SignalStudy) -> str:
    expected, seen = float(study.column("ends_expected").sum()), int(study.column("ends_seen").sum())
    if not seen:
        return "Whether the model stops where answers end is not known: no answer shows an end token."
    return (
        f"EOS calibration: over all trained tokens of answers the model expects {number(expected)} ends, the data has "
        f"{seen:,}: a ratio of {number(expected / seen)}, 1 being right."
    )


def end_shares(study: SignalStudy) -> Shares:
    return token_shares(study, "end", with_loss=True)


def _end_sentence(study: SignalStudy) -> str:
    of = end_shares(study)
    if "end" not in of.labels:
        return "No end of a turn or sequence is trained."
    row = of.labels.index("end")
    own = [float(of.column(view.normalization.name)[row]) for view in study.views]
    line = f"The tokens that end an answer are {percent(float(of.column('tokens')[row]))} of the tokens and get "
    line += f"{percent(own[0])} of the signal"
    far = int(np.argmax(np.abs(np.nan_to_num(np.array(own) - own[0]))))
    if percent(own[far]) == percent(own[0]):
        return line + "."
    return line + f" ({percent(own[far])} if {as_clause(study.views[far].normalization)})."


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


def from_band(of: Shares, band: int, column: str) -> float:
    """Share of `column` in `band` and those above it."""
    return _bands(of, BAND_NAMES[band:], column)


def up_to_band(of: Shares, band: int, column: str) -> float:
    """Share of `column` in `band` and those below it."""
    return _bands(of, BAND_NAMES[: band + 1], column)


def _bands(of: Shares, names: list[str], column: str) -> float:
    return float(sum(v for label, v in zip(of.labels, of.column(column), strict=True) if label in names))


def describe_band(of: Shares, label: str, current: str) -> tuple[float, float]:
    """Token share and signal share of a band, 0 where it is empty."""
    if label not in of.labels:
        return 0.0, 0.0
    row = of.labels.index(label)
    return float(of.column("tokens")[row]), float(of.column(current)[row])
