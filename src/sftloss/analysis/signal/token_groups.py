"""Groups of tokens (roles, bands of confidence, positions) and the one pass that sums over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from sftloss.analysis.signal.frames import SignalStudy, signal_column, signal_expr
from sftloss.analysis.signal.views import View
from sftloss.numbers import Floats, GroupSums
from sftloss.numbers.bootstrap import snap
from sftloss.roles import ROLES

BANDS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
BAND_NAMES = ["p < 0.01", "0.01 to 0.1", "0.1 to 0.25", "0.25 to 0.5", "0.5 to 0.75", "0.75 to 0.9", "0.9 to 0.99"]
BAND_NAMES += ["p \u2265 0.99"]
FIRST = 8


@dataclass(frozen=True)
class Grouping:
    """A code for each trained token, below the number of names; the key may read `first` and `last`."""

    key: pl.Expr
    names: list[str]


@dataclass(frozen=True)
class Amount:
    """Something of a token that is summed.

    Attributes:
        value: Of a trained token, in float64.
        bound: The sum of its absolute values over the data, times the largest factor.
        factor: Of each example in `SignalStudy.base`; None is 1.
    """

    value: pl.Expr
    bound: float
    factor: Floats | None = None


def band_key() -> pl.Expr:
    """Index of a token's confidence band."""
    p = pl.col("target_logprob").cast(pl.Float64).exp()
    return pl.sum_horizontal([(p >= edge).cast(pl.Int64) for edge in BANDS])


def groupings() -> dict[str, Grouping]:
    """Every grouping of the report."""
    at, span = pl.col("position") - pl.col("first"), pl.col("last") - pl.col("first") + 1
    return {
        "role": Grouping(pl.col("role"), list(ROLES)),
        "band": Grouping(band_key(), BAND_NAMES),
        "first": Grouping(at.clip(0, FIRST), [*(str(k + 1) for k in range(FIRST)), "later"]),
        "tenth": Grouping((10 * at) // span, [f"{10 * k} to {10 * k + 10} %" for k in range(10)]),
        "end": Grouping(pl.col("is_end"), ["inside", "end"]),
    }


def signal_of(study: SignalStudy, view: View, level: str) -> Amount:
    """A view's signal at a level, or its loss."""
    factor = study.factor(view.normalization)
    size = study.column(f"size:{view.objective}" if level == "loss" else signal_column(view, level))
    return Amount(signal_expr(view.objective, level), float(np.abs(size) @ factor), factor)


def amounts(study: SignalStudy) -> dict[str, Amount]:
    """Everything that a report sums over groups of tokens, by name."""
    u, total = pl.col("u"), float(study.size.sum())
    p = pl.col("target_logprob").cast(pl.Float64).exp()
    by_name = {
        "tokens": Amount(pl.lit(1.0), float(study.column("count").sum())),
        "loss": signal_of(study, study.view, "loss"),
        "u": Amount(u, total),
        "p": Amount(u * p, total),
        "ask": Amount(2.0 * u * pl.col("other_logprob").cast(pl.Float64).exp(), 2.0 * total),
        "u loss": Amount(signal_expr(study.objective, "loss"), float(study.column(f"size:{study.objective}").sum())),
    }
    for view in study.ways:
        by_name[f"signal {view.label}"] = signal_of(study, view, study.options.level)
    for name in study.objectives:
        by_name[f"l1 {name}"] = Amount(signal_expr(name, "S1"), float(study.column(f"S1:{name}").sum()))
    return by_name


def sum_tokens(
    study: SignalStudy, groups: Mapping[str, Grouping], values: Mapping[str, Amount]
) -> dict[str, GroupSums]:
    """Sums of all `values` by each of `groups`, in one pass over the tokens.

    Returns:
        By grouping, sums whose columns are `values` in their order.
    """
    exprs = [amount.value.cast(pl.Float64).alias(name) for name, amount in values.items()]
    keys = {name: grouping.key.cast(pl.Int64).alias(f"key {name}") for name, grouping in groups.items()}
    needed = sorted({root for expr in (*exprs, *keys.values()) for root in expr.meta.root_names()})
    units, unit_of = np.unique(study.units, return_inverse=True)
    unit_of = unit_of.ravel()
    sums = {name: np.zeros((len(units), len(g.names), len(values))) for name, g in groups.items()}
    for rows, chunk in study.trained(needed):
        frame = chunk.select(*keys.values(), *exprs)
        columns = []
        for name, amount in values.items():
            column = frame[name].to_numpy()
            factor = 1.0 if amount.factor is None else amount.factor[rows]
            columns.append(snap(column * factor, amount.bound))
        for name, of in sums.items():
            place = unit_of[rows] * of.shape[1] + frame[f"key {name}"].to_numpy()
            for index, column in enumerate(columns):
                of[:, :, index] += np.bincount(place, column, of.shape[0] * of.shape[1]).reshape(of.shape[:2])
    return {name: study.new_sums(*of.shape[1:]).add_units(units, of) for name, of in sums.items()}


def token_sums(study: SignalStudy, grouping: str, columns: Sequence[str]) -> GroupSums:
    """Sums of the named amounts by one of the report's groupings; the pass over the tokens is shared by all."""
    values = study.once("amounts", lambda: amounts(study))
    sums = study.once("token sums", lambda: sum_tokens(study, groupings(), values))[grouping]
    names = list(values)
    return sums.pick([names.index(column) for column in columns])
