"""Which tokens receive the signal: by role, by confidence, by position, and at the end of the answer."""

from __future__ import annotations

import numpy as np
import polars as pl

from sftloss.analysis._bootstrap import GroupSums
from sftloss.analysis._frames import Study
from sftloss.analysis._shares import Shares, cell, percent, share_chart, share_table, shares
from sftloss.analysis._tilt import TOKEN_MEAN
from sftloss.analysis._views import LEVELS, ROLES, View
from sftloss.analysis.document import Cell, Chart, Column, Section, Series, Table

BANDS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
BAND_NAMES = ["p < 0.01", "0.01 to 0.1", "0.1 to 0.25", "0.25 to 0.5", "0.5 to 0.75", "0.75 to 0.9", "0.9 to 0.99"]
BAND_NAMES += ["p \u2265 0.99"]
FIRST = 8


def token_shares(study: Study, key: pl.Expr, names: list[str], *, with_loss: bool = False) -> Shares:
    """Shares of tokens, of loss where wanted, and of signal under each normalisation."""
    level = study.options.level
    columns = [(study.view, "loss")] if with_loss else []
    columns += [(view, level) for view in study.views]
    heads = ["tokens", *(["loss"] if with_loss else []), *(view.normalisation.name for view in study.views)]
    return shares(study.token_sums(key, len(names), columns), names, heads)


def _signals(study: Study) -> tuple[str, ...]:
    return tuple(view.normalisation.name for view in study.views)


def band_key() -> pl.Expr:
    """Index of a token's confidence band."""
    p = pl.col("target_logprob").cast(pl.Float64).exp()
    return pl.sum_horizontal([(p >= edge).cast(pl.Int64) for edge in BANDS])


def band_shares(study: Study) -> Shares:
    return token_shares(study, band_key(), BAND_NAMES, with_loss=True)


def roles_section(study: Study) -> Section:
    """Shares of tokens and signal by role."""
    of = token_shares(study, pl.col("role"), list(ROLES))
    current = study.view.normalisation.name
    parts = ", ".join(f"{label} {percent(v)}" for label, v in zip(of.labels, of.column(current), strict=True))
    lead = f"Under {current} the signal goes to: {parts or 'no token at all'}."
    if of.labels == ("response",):
        lead = "Only answers are trained: every other role has weight 0."
    table = share_table(of, id="roles", title="Roles", first="role", signals=_signals(study))
    chart = share_chart(of, id="role-shares", title="Shares by role", x_label="role", description=lead)
    return Section("roles", "Roles", lead, LEVELS[study.options.level], (chart,), (table,))


def confidence_section(study: Study) -> Section:
    """Shares by confidence, and how strongly each loss pushes at each confidence."""
    of = band_shares(study)
    current = study.view.normalisation.name
    said = [
        f"{percent(t)} of the tokens have {label} and get {percent(s)} of the signal"
        for label, t, s in zip(of.labels, of.column("tokens"), of.column(current), strict=True)
        if label in (BAND_NAMES[0], BAND_NAMES[-1])
    ]
    lead = f"{'; '.join(said)}." if said else "No token has p < 0.01 or p \u2265 0.99."
    table = share_table(of, id="confidence", title="Confidence", first="p of the target", signals=_signals(study))
    chart = share_chart(
        of, id="confidence-shares", title="Shares by confidence", x_label="p of the target", description=lead
    )
    factors, factor_table = _factors(study)
    level = LEVELS[study.options.level]
    return Section("confidence", "Confidence", lead, level, (chart, factors), (table, factor_table))


def _factors(study: Study) -> tuple[Chart, Table]:
    """L1 norm of each loss's logit gradient over cross-entropy's, 2 (1 - p), by band."""
    ask = pl.col("u") * 2.0 * pl.col("other_logprob").cast(pl.Float64).exp()
    parts = [ask.sum().alias("ask")]
    for name in study.objectives:
        parts.append((pl.col("u") * pl.col(f"l1:{name}").cast(pl.Float64)).sum().alias(f"l1:{name}"))
    frame = study.grouped(band_key(), parts)
    keys = frame["key"].to_numpy()
    series, columns = [], []
    floor = np.bincount(keys, frame["ask"].to_numpy(), len(BAND_NAMES))
    for name in study.objectives:
        total = np.bincount(keys, frame[f"l1:{name}"].to_numpy(), len(BAND_NAMES))
        with np.errstate(invalid="ignore", divide="ignore"):
            y = tuple(cell(v) for v in total / floor)
        series.append(Series(name, tuple(BAND_NAMES), y))
        columns.append(y)
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


def positions_section(study: Study) -> Section:
    """The first tokens of an answer, tenths of it, and its end."""
    at, span = pl.col("position") - pl.col("first"), pl.col("last") - pl.col("first") + 1
    first = token_shares(study, at.clip(0, FIRST), [*(str(k + 1) for k in range(FIRST)), "later"], with_loss=True)
    tenth = token_shares(study, (10 * at) // span, [f"{10 * k} to {10 * k + 10} %" for k in range(10)], with_loss=True)
    current = study.view.normalisation.name
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
            share_chart(of, id=f"{key}-shares", title=title, x_label="from the first trained token", description=lead)
        )
    notes = (
        "Positions count from an example's first trained token to its last.",
        "EOS calibration (expected over actual ends) needs p(EOS) where the answer does not end, which the table does "
        "not hold: it is left out.",
    )
    ends = _ends_table(study)
    level = LEVELS[study.options.level]
    return Section("positions", "Positions and the end", lead, level, tuple(charts), (*tables, ends), notes=notes)


def end_shares(study: Study) -> Shares:
    return token_shares(study, pl.col("is_end"), ["inside", "end"], with_loss=True)


def _end_sentence(study: Study) -> str:
    of = end_shares(study)
    if "end" not in of.labels:
        return "No end of a turn or sequence is trained."
    row = of.labels.index("end")
    current = study.view.normalisation.name
    return (
        f"End tokens are {percent(of.column('tokens')[row])} of the tokens and "
        f"{percent(of.column(current)[row])} of the signal."
    )


def _ends_table(study: Study) -> Table:
    """Trained tokens at ends and elsewhere: count, mean p, mean loss."""
    p = pl.col("target_logprob").cast(pl.Float64).exp()
    loss = pl.col(f"loss:{study.objective}").cast(pl.Float64)
    weighted = [(pl.col("u") * v).sum().alias(n) for n, v in (("p", p), ("loss", loss))]
    frame = study.grouped(pl.col("is_end"), [pl.col("u").sum(), pl.len().alias("n"), *weighted])
    sums = GroupSums(2, 4, replicates=1).add(
        frame["example"].to_numpy(),
        frame.select("n", "u", "p", "loss").to_numpy().astype(np.float64),
        frame["key"].to_numpy(),
    )
    rows: list[tuple[Cell, ...]] = []
    for name, (n, u, total_p, total_loss) in zip(("inside", "end"), sums.total, strict=True):
        rows.append((name, int(n), cell(total_p / u) if u else None, cell(total_loss / u) if u else None))
    heads = (Column("where", "where"), Column("count", "tokens", "integer"), Column("p", "mean p", "percent"))
    return Table("ends", "The end of the answer", (*heads, Column("loss", "mean loss", "nats")), tuple(rows))


def mean_loss(study: Study, objective: str) -> float:
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
