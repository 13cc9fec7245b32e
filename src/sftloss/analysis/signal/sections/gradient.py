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
    shares,
    without_empty,
)
from sftloss.analysis.signal.gradients import GradientStudy
from sftloss.analysis.signal.sections.compare import Decode
from sftloss.analysis.signal.sections.update import (
    conflict_chart,
    conflict_table,
    measured_share_table,
    update_by_token,
    update_strips,
)
from sftloss.analysis.signal.views import View
from sftloss.document import Cell, Chart, Column, Section, Series, Table
from sftloss.numbers import Codes
from sftloss.words import agreeing, counted, index, listed, number, percent

LEVEL = "S3 parameter gradient: the norm of the gradient of an example's part of the loss, in all trained weights"
_TEXT = 160  # characters of an example that are shown


def gradient_section(study: GradientStudy, decode: Decode | None) -> Section:
    """Norms under each loss and normalization, deciles of length, the top examples, agreement of levels, conflicts."""
    if len(study.rows) < 3:
        lead = f"Gradients were measured of {counted(len(study.rows), 'trained example')}, too few for any number."
        return Section("gradient", "Gradient of the parameters", lead, LEVEL)
    deciles, of = _deciles(study)
    shares_chart = share_chart(
        of.only(_charted(study)),
        id="gradient-decile-shares",
        title="Gradient by length",
        x_label="length T",
        signals=(),
    )
    (ratios, ratio_chart), (agreement, agreement_chart) = _ratios(study), _agreement(study)
    token_parts, cosines = update_by_token(study), study.measured.cosines
    charts = [shares_chart, ratio_chart, agreement_chart, *(chart for chart, _ in token_parts)]
    charts += [conflict_chart(one) for one in cosines if len(one.names) > 2]  # one pair is no picture
    tables = [_numbers_table(study), deciles, ratios, _influential(study, decode), agreement]
    tables += [*(table for _, table in token_parts), *map(conflict_table, cosines)]
    strips = update_strips(study, decode)
    notes = [
        f"Measured of {counted(len(study.rows), 'example')}, spread evenly over the data. Coverage: "
        f"{study.measured.coverage}."
    ]
    if study.shares is None and "share" in study.measured.examples.columns:
        notes.append(
            "The gradient noise scale and the shares of the update were not measured, because a gradient is not finite."
        )
    elif study.shares is None:
        notes.append("The gradient noise scale and the share of each example in the update need --signal additive.")
    if study.measured.update:
        notes.append(study.measured.update)
    if strips:
        notes.append("Tokens are coloured by their share of the update: those for it, or those against it.")
    title = "Gradient of the parameters"
    return Section("gradient", title, _lead(study), LEVEL, tuple(charts), tuple(tables), strips, notes=tuple(notes))


def _lead(study: GradientStudy) -> str:
    law, view, norms = study.law(study.study.view), study.study.current, study.norms()
    order = np.argsort(-norms, kind="stable")
    top = max(1, len(norms) // 10)
    sentences = [
        f"The {counted(top, 'example')} with the largest gradients {agreeing(top, 'have')} "
        f"{percent(float(norms[order[:top]].sum() / norms.sum()))} of the sum of norms under {view}."
    ]
    if law.is_defined:
        sentences.insert(0, f"An example of twice the length has {number(2.0**law.value)} times the gradient norm.")
    if (part := study.shares) is not None:
        sentences.append(f"{percent(float((part < 0).mean()))} of the examples push against the update.")
        scale = study.noise_scale()
        if np.isnan(scale):
            sentences.append("The gradient noise scale was not measured, because a gradient is not finite.")
        elif np.isinf(scale):
            sentences.append(f"The gradient noise scale is larger than {counted(len(norms), 'example')} can measure.")
        elif scale == 0:
            sentences.append("The gradient noise scale is 0, because all examples have the same gradient.")
        else:
            sentences.append(
                f"The gradient noise scale is {number(scale)} examples: a step of more examples gains little."
            )
    return " ".join(sentences)


def _name(study: GradientStudy, view: View) -> str:
    return view.label if len(study.study.objectives) > 1 else view.normalization.name


def _charted(study: GradientStudy) -> list[str]:
    """The columns of the deciles that are drawn: each loss as it is trained, beside the tokens and the update."""
    base = study.study
    views = [view for view in base.ways if view.normalization == base.options.normalization]
    update = [] if study.shares is None else ["update"]
    return ["tokens", *(f"norm, {_name(study, view)}" for view in views[:4]), *update]


def _numbers_table(study: GradientStudy) -> Table:
    columns = (
        Column("trained", "trained with"),
        *estimate_columns("elasticity", "elasticity", "index", help="exponent of the mean norm in T"),
        Column("spearman", "Spearman", "index", "rank correlation of norm and length"),
        Column("partial", "Spearman given difficulty", "index", "after what the mean loss explains"),
        Column("concentration", "concentration index", "index", "above 0: long examples have more than their part"),
        Column("ess", "effective examples", "percent", "Kish's effective number of examples over their number"),
        Column("top", "norm of the top 10 %", "percent", "of the examples"),
        Column("noise", "noise scale", "number", "examples from which a larger step gains little; empty where unknown"),
    )
    rows: list[tuple[Cell, ...]] = []
    for view in study.study.ways:
        norms = study.norms(view)
        rank = numbers.spearman(study.size, norms).r
        partial = numbers.partial_spearman(study.size, norms, study.mean_loss(view)) if len(norms) > 9 else float("nan")
        concentration = numbers.concentration_index(norms, study.size)
        shares_of = (numbers.kish_ess(norms) / len(norms), numbers.top_share(norms, 0.1))
        values = map(cell, (rank, partial, concentration, *shares_of, study.noise_scale(view)))
        rows.append((_name(study, view), *estimate_cells(study.law(view)), *values))
    unbounded = [_name(study, view) for view in study.study.ways if np.isinf(study.noise_scale(view))]
    note = f"Larger than these examples can measure: the noise scale of {listed(unbounded)}." if unbounded else ""
    return without_empty(Table("gradient-numbers", "Gradient norm and length", columns, tuple(rows), note))


def _deciles(study: GradientStudy) -> tuple[Table, Shares]:
    codes, bins = numbers.quantile_bins(study.size)
    names = [_range(low, high) for low, high in bins]
    columns = ["examples", "tokens", *(f"norm, {_name(study, view)}" for view in study.study.ways)]
    tokens = study.study.column("count")[study.rows]
    values = [np.ones(len(tokens)), tokens, *(study.norms(view) for view in study.study.ways)]
    if (part := study.shares) is not None:
        columns.append("update")
        values.append(part)
    sums = study.study.new_sums(len(names), len(columns)).add(study.units, np.stack(values, axis=1), codes)
    of = shares(sums, names, columns)
    title = "Gradient by deciles of length"
    return measured_share_table(of, id="gradient-deciles", title=title, first="length T"), of


def _range(low: float, high: float) -> str:
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def _ratios(study: GradientStudy) -> tuple[Table, Chart]:
    """Gradient norm over loss by length: the chapter's table. A normalization changes both by one factor."""
    codes, bins = numbers.quantile_bins(study.size)
    base, names = study.study, [_range(low, high) for low, high in bins]
    columns = [Column("group", "length T"), Column("examples", "examples", "integer")]
    cells: list[list[Cell]] = [[name, int((codes == group).sum())] for group, name in enumerate(names)]
    series = []
    for at, objective in enumerate(base.objectives):
        view = View(objective, base.options.normalization)
        norms, losses = study.norms(view), base.signal(view, "loss")[study.rows]
        ends, key = "" if len(base.objectives) == 1 else f", {objective}", at or ""
        columns += [
            Column(f"loss{key}", f"mean loss of a token{ends}", "nats"),
            Column(f"norm{key}", f"gradient norm, mean{ends}", "number", f"under {view.normalization.name}"),
            Column(f"ratio{key}", f"gradient norm over loss{ends}", "number", "both of the whole example"),
        ]
        ratios = []
        for group, row in enumerate(cells):
            mine = codes == group
            total = losses[mine].sum()
            ratios.append(cell(norms[mine].sum() / total if total > 0 else float("nan")))
            row += [cell(study.mean_loss(view)[mine].mean()), cell(norms[mine].mean()), ratios[-1]]
        series.append(Series(objective, tuple(names), tuple(ratios)))
    first, last = series[0].y[0], series[0].y[-1]
    described = "Gradient norm over loss by deciles of length."
    if first is not None and last is not None:
        described += f" {number(first)} for the shortest examples, {number(last)} for the longest."
    title = "Gradient and loss by length"
    chart = Chart(
        "gradient-ratios", "line", "Gradient norm over loss by length", "length T", "norm over loss", tuple(series),
        described, "category", format_x="text",
    )  # fmt: skip
    return Table("gradient-ratios", title, tuple(columns), tuple(map(tuple, cells))), chart


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
        values = (study.mean_loss()[at], norms[at] / norms.sum(), *(() if part is None else (part[at],)))
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


def _agreement(study: GradientStudy) -> tuple[Table, Chart]:
    """Rank correlations of what is cheap to know with the gradient."""
    base, view, part = study.study, study.study.view, study.shares
    cheap = {"length T": study.size, "sum of losses": base.signal(view, "loss")[study.rows]}
    for level in ("S0", "S1", *(["S2"] if "hidden_norm" in base.columns else [])):
        cheap[level] = base.signal(view, level)[study.rows]
    measured = {"gradient norm": study.norms(), **({} if part is None else {"share of the update": part})}
    if part is not None:
        cheap["S3 gradient norm"] = study.norms()
    ranks = {
        what: [cell(numbers.spearman(values, truth).r) for values in cheap.values()] for what, truth in measured.items()
    }
    columns = (
        Column("level", "level"),
        *(
            Column(key, f"Spearman with the {what}", "index")
            for key, what in zip(("norm", "share"), ranks, strict=False)
        ),
    )
    rows = tuple(zip(cheap, *ranks.values(), strict=True))
    title = "How well cheaper levels agree"
    series = tuple(Series(f"with the {what}", tuple(cheap), tuple(values)) for what, values in ranks.items())
    ranked = zip(cheap, ranks["gradient norm"], strict=True)
    best = max(((value, name) for name, value in ranked if value is not None and name[:2] != "S3"), default=None)
    described = (
        "Every rank correlation is undefined: all examples have the same gradient norm, or the same cheaper values."
    )
    if best is not None:
        described = f"Rank correlations. Of these, {best[1]} is closest to the gradient norm ({index(best[0])})."
    chart = Chart(
        "gradient-agreement", "bar", title, "level", "Spearman", series, described, "category", format_x="text",
        format_y="index",
    )  # fmt: skip
    return Table("gradient-agreement", title, columns, rows, f"Under {view.normalization.name}."), chart
