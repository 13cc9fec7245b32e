"""Which tokens make the update, token by token and by group; and which groups of examples pull against each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from sftloss.analysis.shared.shares import Shares, cell, forest, share_chart, share_table, shares
from sftloss.analysis.signal.frames import signal_expr
from sftloss.analysis.signal.gradients import Cosines, GradientStudy
from sftloss.analysis.signal.sections.compare import Decode
from sftloss.analysis.signal.token_groups import BAND_NAMES, band_key
from sftloss.document import Chart, Column, Table, TokenStrip
from sftloss.numbers import Estimate
from sftloss.roles import ROLES
from sftloss.words import number, percent

_STRIPS = 4  # examples shown token by token
_PAIRS = 12  # of groups, those that conflict most
_BELOW = "Below 0, a step for one raises the loss of the other."


def update_by_token(study: GradientStudy) -> list[tuple[Chart, Table]]:
    """Shares of the update by the model's confidence and by role; nothing where they were not measured."""
    tokens = _tokens(study)
    if tokens is None:
        return []
    groups = [("confidence", "p of the target", tokens["band"].to_numpy(), BAND_NAMES)]
    if tokens["role"].n_unique() > 1:
        groups.append(("role", "role", tokens["role"].to_numpy(), list(ROLES)))
    rows = np.searchsorted(study.study.ids, tokens["example"].to_numpy())
    values = tokens.select(tokens=pl.lit(1.0), signal="S1", update="share").to_numpy()
    values[:, 1] *= study.study.factor(study.study.options.normalization)[rows]
    out = []
    for name, label, codes, names in groups:
        sums = study.study.new_sums(len(names), 3).add(study.study.units[rows], values, codes.astype(np.int64))
        of = shares(sums, names, ["tokens", "signal S1", "update"])
        title, place = f"Update by {name}", f"gradient-update-{name}"
        parts = of.column("tokens"), of.column("update")
        top = int(np.nanargmax(parts[1]))
        described = f"{of.labels[top]}: {percent(parts[0][top])} of the tokens, {percent(parts[1][top])} of the update."
        chart = share_chart(of, id=place, title=title, x_label=label, signals=(), description=described)
        out.append((chart, measured_share_table(of, id=place, title=title, first=label)))
    return out


def measured_share_table(of: Shares, *, id: str, title: str, first: str) -> Table:
    """A table of shares with an interval for each column but examples and tokens."""
    signals = [name for name in of.columns if name not in ("examples", "tokens")]
    table = share_table(of, id=id, title=title, first=first, signals=signals)
    return replace(table, columns=tuple(replace(c, label=c.label.removeprefix("signal, ")) for c in table.columns))


def update_strips(study: GradientStudy, decode: Decode | None) -> tuple[TokenStrip, ...]:
    """The examples with the largest part of the update and those most against it, by the shares of their tokens."""
    tokens, part = _tokens(study), study.shares
    if tokens is None or part is None:
        return ()
    order = np.argsort(-part, kind="stable")
    chosen = dict.fromkeys([*order[: _STRIPS // 2], *(at for at in order[::-1][: _STRIPS // 2] if part[at] < 0)])
    rows = study.rows[list(chosen)]
    strips = []
    for one, share, origin in zip(study.study.ids[rows], part[list(chosen)], study.study.origins(rows), strict=True):
        mine = tokens.filter(pl.col("example") == one).sort("position").head(study.study.options.strip_tokens)
        ids, shares_of = mine["token"].to_list(), mine["share"].to_numpy()
        largest = np.abs(shares_of).max() or 1.0
        values = [tuple((sign * shares_of / largest).clip(0, 1).tolist()) for sign in (1, -1)]
        texts = tuple(map(str, ids if decode is None else decode(ids)))
        roles = tuple(ROLES[code] for code in mine["role"].to_list())
        title = f"{origin}: {percent(float(share))} of the update"
        strips.append(TokenStrip(title, ("for the update", "against the update"), texts, roles, tuple(values)))
    return tuple(strips)


def conflict_table(of: Cosines) -> Table:
    """The matrix of cosines."""
    columns = (Column("group", of.column), *(Column(f"c{i}", name, "index") for i, name in enumerate(of.names)))
    rows = tuple((name, *map(cell, values)) for name, values in zip(of.names, of.values, strict=True))
    title = f"Cosines between the gradients by {of.column}"
    return Table(f"gradient-cosines-{of.column}", title, columns, rows, _BELOW)


def conflict_chart(of: Cosines) -> Chart:
    """The pairs of groups with the smallest cosines."""
    pairs = sorted((of.values[i][j], f"{of.names[j]}, {of.names[i]}") for i in range(len(of.names)) for j in range(i))
    return forest(
        [(name, Estimate(value)) for value, name in pairs[:_PAIRS]],
        id=f"gradient-conflicts-{of.column}",
        title=f"Agreement of the {of.column}s' gradients",
        x_label="cosine",
        description=f"Smallest: {pairs[0][1]} ({number(pairs[0][0])}). {_BELOW}",
    )


def _tokens(study: GradientStudy) -> pl.DataFrame | None:
    """The trained tokens of the measured examples with their share of the update, their signal, role and band."""
    if study.measured.tokens is None or study.shares is None:
        return None
    base = study.study
    wanted = ("token", "role", "u", "target_logprob", f"l1:{base.objective}")
    frame = base.tokens_of(base.ids[study.rows], wanted).filter(pl.col("u") > 0)
    frame = frame.with_columns(S1=signal_expr(base.objective, "S1"), band=band_key())
    return frame.join(study.measured.tokens, on=["example", "position"], how="inner", maintain_order="left")
