"""The gradient of the parameters by example: how it grows with length, who has it, and how the cheap levels agree."""

from __future__ import annotations

import numpy as np
import polars as pl

from sftloss import numbers
from sftloss.analysis.shared.shares import (
    Shares,
    cell,
    estimate_cells,
    estimate_columns,
    share_chart,
    share_table,
    shares,
)
from sftloss.analysis.signal.gradients import Cosines, GradientStudy
from sftloss.analysis.signal.sections.compare import Decode
from sftloss.document import Cell, Column, Section, Table
from sftloss.numbers import Codes
from sftloss.words import counted, number, percent

LEVEL = "S3 parameter gradient: the norm of the gradient of an example's part of the loss, in all trained weights"
_TEXT = 160  # characters of an example that are shown


def gradient_section(study: GradientStudy, decode: Decode | None) -> Section:
    """Numbers under each normalization, deciles of length, the top examples, agreement of levels, conflicts."""
    if len(study.rows) < 3:
        lead = f"Gradients were measured of {counted(len(study.rows), 'trained example')}, too few for any number."
        return Section("gradient", "Gradient of the parameters", lead, LEVEL)
    deciles, of, signals = _deciles(study)
    chart = share_chart(
        of, id="gradient-decile-shares", title="Gradient by length", x_label="length T", signals=signals
    )
    tables = [_numbers_table(study), deciles, _ratios(study), _influential(study, decode), _agreement(study)]
    tables += [_conflicts(one) for one in study.measured.cosines]
    notes = (
        f"Measured of {counted(len(study.rows), 'example')}, spread evenly over the data. Coverage: "
        f"{study.measured.coverage}.",
        *([study.measured.update] if study.measured.update else []),
    )
    return Section("gradient", "Gradient of the parameters", _lead(study), LEVEL, (chart,), tuple(tables), notes=notes)


def _lead(study: GradientStudy) -> str:
    law, view, norms = study.law(study.study.view), study.study.current, study.norms()
    order = np.argsort(-norms, kind="stable")
    top = max(1, len(norms) // 10)
    sentences = [
        f"The {counted(top, 'example')} with the largest gradients have "
        f"{percent(float(norms[order[:top]].sum() / norms.sum()))} of the sum of norms under {view}."
    ]
    if law.is_defined:
        sentences.insert(0, f"An example of twice the length has {number(2.0**law.value)} times the gradient norm.")
    if (part := study.shares) is not None:
        sentences.append(f"{percent(float((part < 0).mean()))} of the examples push against the update.")
        scale = study.noise_scale
        if np.isfinite(scale):
            sentences.append(f"The gradient noise scale is {number(scale)} examples.")
    return " ".join(sentences)


def _numbers_table(study: GradientStudy) -> Table:
    columns = (
        Column("normalization", "normalization"),
        *estimate_columns("elasticity", "elasticity", "index", help="exponent of the mean norm in T"),
        Column("spearman", "Spearman", "index", "rank correlation of norm and length"),
        Column("partial", "Spearman given difficulty", "index", "after what the mean loss explains"),
        Column("concentration", "concentration index", "index", "above 0: long examples have more than their part"),
        Column("ess", "examples that count", "percent", "Kish's effective number of examples over their number"),
        Column("top", "norm of the top 10 %", "percent", "of the examples"),
    )
    rows: list[tuple[Cell, ...]] = []
    for view in study.study.views:
        norms = study.norms(view)
        rank = numbers.spearman(study.size, norms).r
        partial = numbers.partial_spearman(study.size, norms, study.mean_loss) if len(norms) > 9 else float("nan")
        concentration = numbers.concentration_index(norms, study.size)
        shares_of = (numbers.kish_ess(norms) / len(norms), numbers.top_share(norms, 0.1))
        values = map(cell, (rank, partial, concentration, *shares_of))
        rows.append((view.normalization.name, *estimate_cells(study.law(view)), *values))
    return Table("gradient-numbers", "Gradient norm and length", columns, tuple(rows))


def _deciles(study: GradientStudy) -> tuple[Table, Shares, tuple[str, ...]]:
    """The table of shares by length, the shares, and the names of those columns that are signals."""
    codes, bins = numbers.quantile_bins(study.size)
    names = [_range(low, high) for low, high in bins]
    columns = ["examples", "tokens", *(view.normalization.name for view in study.study.views)]
    tokens = study.study.column("count")[study.rows]
    values = [np.ones(len(tokens)), tokens, *(study.norms(view) for view in study.study.views)]
    if (part := study.shares) is not None:
        columns.append("update")
        values.append(part)
    sums = study.study.new_sums(len(names), len(columns)).add(study.units, np.stack(values, axis=1), codes)
    of = shares(sums, names, columns)
    signals = tuple(columns[2:])
    table = share_table(
        of, id="gradient-deciles", title="Gradient by deciles of length", first="length T", signals=signals
    )
    return table, of, signals


def _range(low: float, high: float) -> str:
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def _ratios(study: GradientStudy) -> Table:
    """Gradient norm over loss by length: the chapter's table. A normalization changes both by one factor."""
    codes, bins = numbers.quantile_bins(study.size)
    view = study.study.view
    norms, losses = study.norms(view), study.study.signal(view, "loss")[study.rows]
    columns = (
        Column("group", "length T"),
        Column("examples", "examples", "integer"),
        Column("loss", "mean loss of a token", "nats"),
        Column("norm", "gradient norm, mean", "number", f"under {view.normalization.name}"),
        Column("ratio", "gradient norm over loss", "number", "both of the whole example"),
    )
    rows = []
    for group, (low, high) in enumerate(bins):
        mine = codes == group
        if mine.any():
            ratio = norms[mine].sum() / losses[mine].sum() if losses[mine].sum() > 0 else float("nan")
            values = (study.mean_loss[mine].mean(), norms[mine].mean(), ratio)
            rows.append((_range(low, high), int(mine.sum()), *map(cell, values)))
    return Table("gradient-ratios", "Gradient and loss by length", columns, tuple(rows))


def _influential(study: GradientStudy, decode: Decode | None) -> Table:
    """The examples with the largest part of the update, or else of the norms, and their text."""
    norms, part = study.norms(), study.shares
    top = study.study.options.top
    rank = norms if part is None else part
    order = np.argsort(-rank, kind="stable")[:top]
    if part is not None:  # and those that push against it
        against = np.argsort(part, kind="stable")[: max(1, top // 2)]
        order = np.concatenate([order, against[(part[against] < 0) & ~np.isin(against, order)]])
    chosen = study.rows[order]
    texts = _texts(study, chosen, decode)
    columns = (
        Column("origin", "example"),
        Column("tokens", "trained tokens", "integer"),
        Column("loss", "mean loss", "nats"),
        Column("norm", "share of the norms", "percent"),
        *((Column("share", "share of the update", "percent"),) if part is not None else ()),
        Column("text", "trained text"),
    )
    rows = []
    for at, row, origin in zip(order, chosen, study.study.origins(chosen), strict=True):
        values = (study.mean_loss[at], norms[at] / norms.sum(), *(() if part is None else (part[at],)))
        rows.append((origin, int(study.study.column("count")[row]), *map(cell, values), texts[int(row)]))
    largest = "gradients" if part is None else "and the most negative shares of the update"
    return Table("gradient-influential", f"Examples with the largest {largest}", columns, tuple(rows))


def _texts(study: GradientStudy, rows: Codes, decode: Decode | None) -> dict[int, str]:
    """The trained tokens of some examples as text."""
    ids = study.study.ids[rows]
    tokens = study.study.tokens_of(ids, ("token", "u")).filter(pl.col("u") > 0)
    by_id = {key[0]: part["token"].to_list() for key, part in tokens.partition_by("example", as_dict=True).items()}
    texts = {}
    for row, one in zip(rows.tolist(), ids.tolist(), strict=True):
        mine = by_id.get(one, [])[:_TEXT]
        text = "".join(decode(mine)) if decode is not None else " ".join(map(str, mine))
        texts[row] = text if len(text) <= _TEXT else text[: _TEXT - 3] + "..."
    return texts


def _agreement(study: GradientStudy) -> Table:
    """Rank correlations of what is cheap to know with the gradient."""
    base, view, part = study.study, study.study.view, study.shares
    cheap = {"length T": study.size, "sum of losses": base.signal(view, "loss")[study.rows]}
    for level in ("S0", "S1", *(["S2"] if "hidden_norm" in base.columns else [])):
        cheap[level] = base.signal(view, level)[study.rows]
    columns = (
        Column("level", "level"),
        Column("norm", "Spearman with the gradient norm", "index"),
        *((Column("share", "Spearman with the share of the update", "index"),) if part is not None else ()),
    )
    norms = study.norms()
    rows = []
    if part is not None:
        cheap["S3 gradient norm"] = norms
    for name, values in cheap.items():
        ranks = [numbers.spearman(values, norms).r, *([] if part is None else [numbers.spearman(values, part).r])]
        rows.append((name, *map(cell, ranks)))
    return Table(
        "gradient-agreement", "How well cheaper levels agree", columns, tuple(rows), f"Under {view.normalization.name}."
    )


def _conflicts(of: Cosines) -> Table:
    columns = (Column("group", of.column), *(Column(f"c{i}", name, "index") for i, name in enumerate(of.names)))
    rows = tuple((name, *map(cell, values)) for name, values in zip(of.names, of.values, strict=True))
    note = "Below 0, a step for one group raises the loss of the other."
    return Table(f"gradient-cosines-{of.column}", f"Cosines between the gradients by {of.column}", columns, rows, note)
