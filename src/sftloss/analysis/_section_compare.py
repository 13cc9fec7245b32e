"""All losses and normalisations side by side; the examples with the largest signal; examples token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from sftloss.analysis import _numbers as numbers
from sftloss.analysis._frames import Study
from sftloss.analysis._section_length import elasticity, tilts
from sftloss.analysis._section_tokens import mean_loss
from sftloss.analysis._shares import bounds, cell, forest, number, percent
from sftloss.analysis._views import LEVELS, ROLES, View
from sftloss.analysis.document import Cell, Column, Section, Table, TokenStrip

Decode = Callable[[Sequence[int]], Sequence[str]]


def comparison_section(study: Study) -> Section:
    """Every measured loss under every normalisation: what it weighs, not which is best."""
    level = study.options.level
    columns = (
        Column("view", "loss, normalisation"),
        Column("loss", "mean loss", "nats", "of a trained token, each loss in its own terms: not comparable"),
        Column("ess", "effective share of examples", "percent", "Kish ESS over the number of examples"),
        Column("top", "share of the top 1 %", "percent"),
        Column("elasticity", "elasticity", "number"),
        Column("low", "low", "number", "end of the 95 % interval"),
        Column("high", "high", "number", "end of the 95 % interval"),
        Column("length", "predicted mean length", "number", "unconditional: the largest possible shift"),
    )
    predicted = {tilt.normalisation: tilt.unconditional.value for tilt in tilts(study)}
    rows: list[tuple[Cell, ...]] = []
    slopes = []
    trained = study.size > 0
    for objective in study.objectives:
        for one in study.options.all_normalisations():
            view = View(objective, one)
            signal, slope = study.signal(view, level)[trained], elasticity(study, view, level)
            slopes.append((view.label, slope))
            ess = numbers.kish_ess(signal) / max(len(signal), 1)
            held = (mean_loss(study, objective), ess, numbers.top_share(signal, 0.01))
            values = (*held, slope.value, *bounds(slope.interval), predicted[one])
            rows.append((view.label, *(cell(v) for v in values)))
    note = "The predicted length holds for cross-entropy at its optimum; lengths alone do not say where others end."
    table = Table("comparison", "Losses and normalisations", columns, tuple(rows), note)
    defined = [(label, e) for label, e in slopes if np.isfinite(e.value)]
    lead = f"{len(study.objectives)} losses under {len(predicted)} normalisations on the same forward pass."
    if defined:
        low, high = min(defined, key=lambda s: s[1].value), max(defined, key=lambda s: s[1].value)
        lead += (
            f" Elasticity in length runs from {number(low[1].value)} ({low[0]}) "
            f"to {number(high[1].value)} ({high[0]}). "
            "This table says what a choice weighs, not which trains best."
        )
    chart = forest(
        slopes,
        id="comparison-elasticity",
        title="Elasticity of signal in length",
        x_label="elasticity",
        description=lead,
    )
    return Section("comparison", "Losses compared", lead, LEVELS[level], (chart,), (table,))


def influential_section(study: Study) -> Section:
    """The examples that hold most of the signal."""
    options = study.options
    share = _share(study.signal(study.view, options.level))
    order = np.lexsort((study.ids, -share))[: options.top]
    top = order[share[order] > 0]
    mean = study.column(f"loss:{study.objective}") / np.where(study.size > 0, study.size, np.nan)
    columns = (
        Column("origin", "example"),
        Column("task", "task"),
        Column("tokens", "trained tokens", "integer"),
        Column("loss", "mean loss", "nats"),
        Column("share", "signal", "percent"),
        Column("times", "times an equal share", "ratio"),
    )
    tasks = study.base["task"].to_list()
    rows = tuple(
        (origin, tasks[i], int(study.column("count")[i]), cell(mean[i]), cell(share[i]), cell(share[i] * len(share)))
        for i, origin in zip(top, study.origins(top), strict=True)
    )
    lead = f"The {len(top)} examples with most signal hold {percent(float(share[top].sum()))} of it."
    chart = forest(
        [(row[0], numbers.Estimate(float(share[i]))) for i, row in zip(top, rows, strict=True)],
        id="influential-shares",
        title="Signal share of the top examples",
        x_label="share of signal",
        description=lead,
    )
    table = Table("influential", "Most influential examples", columns, rows)
    return Section("influential", "Most influential examples", lead, LEVELS[options.level], (chart,), (table,))


def _share(signal: np.ndarray) -> np.ndarray:
    total = signal.sum()
    return signal / total if total > 0 else np.zeros_like(signal)


def strips_section(study: Study, decode: Decode | None) -> Section:
    """What is trained in a few examples, token by token: spread over the data, and the one with most signal."""
    rows = _sample(study)
    ids = study.ids[rows]
    frame = study.tokens.filter(pl.col("example").is_in(ids.tolist())).sort("example", "position")
    wanted = ["example", "position", "token", "role", "u", f"loss:{study.objective}", f"l1:{study.objective}"]
    parts = {key[0]: part for key, part in frame.select(wanted).collect().partition_by("example", as_dict=True).items()}
    strips = []
    for one, origin in zip(ids.tolist(), study.origins(rows), strict=True):
        if one in parts:
            strips.append(_strip(study, parts[one].head(study.options.strip_tokens), origin, decode))
    lead = f"{percent(float((study.size > 0).mean()))} of {len(study.size)} examples have a trained token."
    return Section("tokens", "What is trained", lead, LEVELS["S1"], strips=tuple(strips))


def _sample(study: Study) -> np.ndarray:
    """Rows spread evenly over the data, and the row with the largest signal."""
    count = min(study.options.strips, 20, len(study.ids))
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    spread = np.linspace(0, len(study.ids) - 1, count).round().astype(np.int64)
    spread[-1] = int(np.argmax(study.signal(study.view, study.options.level)))
    return np.unique(spread)


def _strip(study: Study, part: pl.DataFrame, origin: str, decode: Decode | None) -> TokenStrip:
    ids = part["token"].to_list()
    texts = [str(token) for token in ids] if decode is None else [str(text) for text in decode(ids)]
    weight = part["u"].to_numpy()
    columns = []
    for name in (f"loss:{study.objective}", f"l1:{study.objective}"):
        columns.append(np.where(weight > 0, part[name].cast(pl.Float64).to_numpy(), 0.0))
    measures = (weight, columns[0], weight * columns[1])
    values = tuple(tuple((m / m.max()).clip(0, 1).tolist() if m.max() > 0 else m.tolist()) for m in measures)
    roles = tuple(ROLES[code] for code in part["role"].to_list())
    return TokenStrip(origin, ("weight", "loss", "signal"), tuple(texts), roles, values)
