"""All losses and normalizations side by side; the examples with the largest signal; examples token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import itemgetter

import numpy as np
import polars as pl

from sftloss.analysis.shared.shares import bounds, cell, estimate_columns, forest, without_empty
from sftloss.analysis.signal.frames import SignalStudy
from sftloss.analysis.signal.sections.length import is_bad_fit, length_law
from sftloss.analysis.signal.sections.tokens import mean_loss
from sftloss.analysis.signal.views import LEVELS, View
from sftloss.document import Column, Section, Table, TokenStrip
from sftloss.numbers import Estimate, kish_ess, top_share
from sftloss.roles import ROLES
from sftloss.words import agreeing, counted, percent

Decode = Callable[[Sequence[int]], Sequence[str]]


_COMPARISON_COLUMNS = (
    Column("view", "trained with"),
    *estimate_columns(
        "twice",
        "signal at twice the length",
        "ratio",
        help="2^elasticity: 2 counts tokens alike, 1 examples; empty where no power of length fits",
    ),
    Column("ess", "effective examples", "percent", "Kish's effective number of examples over their number"),
    Column("top", "signal of the top 1 %", "percent", "of the examples"),
    Column("length", "predicted length", "text", "mean tokens of an answer: within prompts, at the bound"),
    Column("loss", "mean loss", "nats", "of a trained token, each loss in its own terms: not comparable"),
)


def comparison_section(study: SignalStudy) -> Section:
    """Every measured loss under every normalization: what it weighs, not which is best."""
    level, rows, laws = study.options.level, [], []
    trained = study.size > 0
    for objective in study.objectives:
        for rule in study.rules:
            view = View(objective, rule)
            label = view.label if len(study.objectives) > 1 else rule.name
            signal, law = study.signal(view, level)[trained], length_law(study, view, level)
            if is_bad_fit(study, view, level):
                law = Estimate(math.nan, reason="no power of length fits")
            laws.append((label, law))
            exponents = (law.value, *bounds(law.interval))  # of few examples an end may be beyond what a double holds
            times = (None if e is None or e > 1000 else 2.0**e for e in exponents)
            shares = (kish_ess(signal) / max(len(signal), 1), top_share(signal, 0.01))
            is_known = objective == "cross_entropy" and len(study.lengths.answers.ids) > 0
            length = study.lengths.range_of(rule).words() if is_known else None
            rows.append((label, *map(cell, (*times, *shares)), length, cell(mean_loss(study, objective))))
    note = "The length is predicted for cross-entropy at its optimum; for other losses it is not known."
    note = note if any(row[-2] for row in rows) else ""
    table = without_empty(Table("comparison", "Losses and normalizations", _COMPARISON_COLUMNS, tuple(rows), note))
    losses = counted(len(study.objectives), "loss", "losses")
    lead = f"{losses} under {counted(len(study.rules), 'normalization')}, from the same forward pass."
    defined = [(label, law.value) for label, law in laws if law.is_defined]
    if len(defined) > 1:
        (low, least), (high, most) = min(defined, key=itemgetter(1)), max(defined, key=itemgetter(1))
        lead += (
            f" An example of twice the length gets from {2.0**least:.2f} ({low}) to {2.0**most:.2f} times the signal "
            f"({high})."
        )
    elif not defined:
        lead += " No power of length describes the signal of any of them."
    lead += " This shows what each choice weighs, not which one trains best."
    chart = forest(
        laws,
        id="comparison-elasticity",
        title="How signal grows with length, by loss",
        x_label="elasticity: twice the length, 2^elasticity times the signal",
        description=lead,
    )
    return Section("comparison", "Losses compared", lead, LEVELS[level], (chart,) if defined else (), (table,))


def influential_section(study: SignalStudy) -> Section:
    """The examples that hold most of the signal."""
    options, tokens = study.options, study.column("count")
    share = study.signal(study.view, options.level)
    share = share / (share.sum() or 1.0)
    order = np.lexsort((study.ids, -share))[: options.top]
    top = order[share[order] > 0]
    mean = study.column(f"loss:{study.objective}") / np.where(study.size > 0, study.size, np.nan)
    tasks = study.base["task"].to_list()
    has_tasks = any(task is not None for task in tasks)
    columns = (
        Column("origin", "example"),
        *((Column("task", "task"),) if has_tasks else ()),
        Column("tokens", "trained tokens", "integer"),
        Column("loss", "mean loss", "nats"),
        Column("share", "signal", "percent"),
        Column("times", "times an equal share", "ratio"),
    )
    rows = tuple(
        (
            origin,
            *((tasks[i],) if has_tasks else ()),
            int(tokens[i]),
            cell(mean[i]),
            cell(share[i]),
            cell(share[i] * len(share)),
        )
        for i, origin in zip(top, study.origins(top), strict=True)
    )
    lead = (
        f"The {counted(len(top), 'example')} with the most signal {agreeing(len(top), 'have')} "
        f"{percent(float(share[top].sum()))} of it and "
        f"{percent(float(tokens[top].sum() / max(tokens.sum(), 1)))} of the tokens."
    )
    chart = forest(
        [(row[0], Estimate(float(share[i]))) for i, row in zip(top, rows, strict=True)],
        id="influential-shares",
        title="Signal share of the top examples",
        x_label="share of signal",
        description=lead,
        kind="percent",
    )
    table = Table("influential", "Most influential examples", columns, rows)
    return Section("influential", "Most influential examples", lead, LEVELS[options.level], (chart,), (table,))


def strips_section(study: SignalStudy, decode: Decode | None) -> Section:
    """What is trained in a few examples, token by token: spread over the data, and the one with most signal."""
    rows = _sample(study)
    ids = study.ids[rows]
    wanted = ["token", "role", "u", f"loss:{study.objective}", f"l1:{study.objective}"]
    parts = {key[0]: part for key, part in study.tokens_of(ids, wanted).partition_by("example", as_dict=True).items()}
    strips = []
    for one, origin in zip(ids.tolist(), study.origins(rows), strict=True):
        if one in parts:
            start, shown = _start(parts[one], study.options.strip_tokens), study.options.strip_tokens
            whole, title = parts[one].height + 1, origin  # and the first, which is never predicted
            if start or whole - 1 > shown:
                title = f"{origin}, tokens {start + 2:,} to {min(start + 1 + shown, whole):,} of {whole:,}"
            strips.append(_strip(study, parts[one].slice(start, shown), title, decode))
    trained = int(((study.size > 0) | (study.column("nonfinite") > 0)).sum())
    which = "All" if trained == len(study.size) else f"{trained:,} of"
    lead = (
        f"{which} {counted(len(study.size), 'example')} {agreeing(trained, 'train at least one token')}. These are "
        "some of them."
    )
    notes = ("The first token of an example is never predicted, so it is not shown.",)
    return Section("tokens", "What is trained", lead, LEVELS["S1"], strips=tuple(strips), notes=notes)


def _start(part: pl.DataFrame, shown: int) -> int:
    """Where a strip begins: at the first token, or shortly before the first trained one if that is far."""
    trained = np.flatnonzero(part["u"].to_numpy() > 0)
    return 0 if not len(trained) or trained[0] < shown // 2 else int(trained[0]) - shown // 4


def _sample(study: SignalStudy) -> np.ndarray:
    """Rows spread evenly over the data, and the row with the largest signal."""
    count = min(study.options.strips, 20, len(study.ids))
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    spread = np.linspace(0, len(study.ids) - 1, count).round().astype(np.int64)
    spread[-1] = int(np.argmax(study.signal(study.view, study.options.level)))
    return np.unique(spread)


def _strip(study: SignalStudy, part: pl.DataFrame, origin: str, decode: Decode | None) -> TokenStrip:
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
