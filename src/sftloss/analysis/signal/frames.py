"""From the table of tokens to sums by example, and from those to sums by group.

The tokens are read a part at a time and never held. One row an example stays in memory. A normalization multiplies all
tokens of an example by one factor, so one set of sums answers every normalization.

An example's tokens are in one part, and are added up in their order; across examples, sums are exact or in the order
of ids. So the numbers do not depend on which process or part measured what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any, Protocol, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sftloss.analysis.lengths.answers import Answers, ready
from sftloss.analysis.lengths.forecast import LengthOptions, LengthStudy
from sftloss.analysis.lengths.tilt import Lengths, sequence_weights
from sftloss.analysis.signal.views import AnalysisOptions, View
from sftloss.analysis.table.segments import answers, with_facts, with_spans
from sftloss.errors import DataError, mention
from sftloss.numbers import Floats, GroupSums, resampling_units
from sftloss.roles import RESPONSE, ROLES, UNKNOWN
from sftloss.weights import Normalization

Value = TypeVar("Value")
IN_MEMORY = "rows"  # the path of rows that came from no file


class SignalTable(Protocol):
    """What `measure` writes: tokens and examples as lazy frames, and the tokens in pieces that fit into memory.

    No order is needed of the frames. A chunk holds all tokens of its examples, by example and position.
    """

    def tokens(self, *, is_sorted: bool = True) -> pl.LazyFrame: ...

    def examples(self, *, is_sorted: bool = True) -> pl.LazyFrame: ...

    def chunks(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]: ...


def token_weight(options: AnalysisOptions) -> pl.Expr:
    """u of a token: the data's weight, times the weight of its role where the options give weights by role.

    As in training, a token of another role that the data does not train has the largest weight of its example. The
    frame must hold whole examples.
    """
    weight = pl.col("weight").cast(pl.Float64)
    if options.role_weights is None:
        return weight
    by_role = dict(options.role_weights)
    codes = {code: float(by_role.get(role, 0.0)) for code, role in enumerate(ROLES)}
    of_role = pl.col("role").cast(pl.Int64).replace_strict(codes, default=0.0, return_dtype=pl.Float64)
    is_stated = (weight != 0) | (pl.col("role") == RESPONSE)
    return of_role * pl.when(is_stated).then(weight).otherwise(weight.max().over("example"))


def signal_expr(objective: str, level: str) -> pl.Expr:
    """u times a token's signal at a level (S0, S1 or S2), or times its loss ("loss")."""
    if level == "S0":
        return pl.col("u")
    column = {"loss": "loss", "S1": "l1", "S2": "l2"}[level]
    product = pl.col("u") * pl.col(f"{column}:{objective}").cast(pl.Float64)
    return product * pl.col("hidden_norm") if level == "S2" else product


def _sums(objectives: tuple[str, ...], columns: frozenset[str]) -> list[pl.Expr]:
    """Sums of u times each signal; a token that is untrained or marked as wrong adds nothing, not even a NaN."""
    parts = [pl.col("u").clip(lower_bound=0).sum().alias("S0"), (pl.col("u") > 0).sum().alias("count")]
    for name in objectives:
        for level in ("loss", "S1", *(["S2"] if "hidden_norm" in columns else [])):
            product = pl.when(pl.col("u") > 0).then(signal_expr(name, level)).otherwise(0.0)
            parts.append(product.sum().alias(f"{level}:{name}"))
            if level == "loss":
                parts.append(product.abs().sum().alias(f"size:{name}"))
    return parts


def _facts(columns: frozenset[str]) -> list[pl.Expr]:
    """What the mask audit and the positions need to know of an example."""
    trained = pl.col("u") > 0
    answer = (pl.col("role") == RESPONSE) | ((pl.col("role") == UNKNOWN) & trained)
    first = pl.col("position").filter(trained).min()
    at_first = trained & (pl.col("position") == first)
    p_end = pl.col("end_logprob").cast(pl.Float64).exp() if "end_logprob" in columns else pl.lit(float("nan"))
    could_end = trained & answer & p_end.is_not_nan()
    return [
        pl.when(could_end).then(p_end).otherwise(0.0).sum().alias("ends_expected"),
        (could_end & pl.col("is_end")).sum().alias("ends_seen"),
        *((pl.col("role") == code).sum().alias(f"all {role}") for code, role in enumerate(ROLES)),
        (trained & answer).sum().alias("answer"),
        (trained & pl.col("is_end")).sum().alias("ends"),
        pl.when(trained & ~answer).then(pl.col("u")).otherwise(0.0).sum().alias("other_roles"),
        pl.col("is_broken").sum().alias("nonfinite"),
        pl.struct("position", "token", "u").hash().bitwise_xor().alias("content"),
        pl.col("token").filter(at_first).first().alias("first_token"),
        pl.col("target_logprob").filter(at_first).first().cast(pl.Float64).exp().alias("first_p"),
    ]


@dataclass(frozen=True)
class SignalStudy:
    """A table under options.

    `columns` are those of its tokens. The tokens are read once for `base` and `segments`, when these are first asked.
    """

    table: SignalTable
    objectives: tuple[str, ...]
    columns: frozenset[str]
    options: AnalysisOptions

    @property
    def objective(self) -> str:
        return self.options.objective or self.objectives[0]

    @property
    def view(self) -> View:
        """What is trained now."""
        return View(self.objective, self.options.normalization)

    @cached_property
    def rules(self) -> tuple[Normalization, ...]:
        """Every normalization that is compared, the trained one first."""
        return self.options.all_normalizations()

    @property
    def rule_names(self) -> tuple[str, ...]:
        """Names of `rules`."""
        return tuple(rule.name for rule in self.rules)

    @cached_property
    def views(self) -> tuple[View, ...]:
        """The trained objective under every normalization."""
        return tuple(View(self.objective, rule) for rule in self.rules)

    @cached_property
    def ways(self) -> tuple[View, ...]:
        """Every loss as it is trained now, and the trained loss under every other normalization."""
        losses = (self.objective, *self.objectives)
        return tuple(dict.fromkeys((*(View(name, self.options.normalization) for name in losses), *self.views)))

    @property
    def current(self) -> str:
        """The name of the normalization in use."""
        return self.options.normalization.name

    @cached_property
    def _read(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """`base` and `segments`. Each example is added up by itself, in the order of its tokens."""
        facts = (*_sums(self.objectives, self.columns), *_facts(self.columns))
        nothing = self._with_weights(self.table.tokens(is_sorted=False).head(0)).collect()
        sums, segments = [nothing.group_by("example").agg(facts)], [answers(nothing)]
        for chunk in self._chunks(("token", "is_end", "end_logprob", "target_logprob")):
            sums.append(chunk.group_by("example", maintain_order=True).agg(facts))
            segments.append(answers(chunk))
        by_example = pl.concat(sums)
        base = self.table.examples(is_sorted=False).collect().join(by_example, on="example", how="left").sort("example")
        filled = set(by_example.columns) - {"example", "first_token", "first_p"}
        base = base.with_columns(pl.col(*filled).fill_null(0))
        return base, with_facts(pl.concat(segments).sort("example", "turn"), base)

    @property
    def base(self) -> pl.DataFrame:
        """One row an example, in the order of ids: its origin and groups, and the columns of `_sums` and `_facts`."""
        return self._read[0]

    @property
    def segments(self) -> pl.DataFrame:
        """One row a stretch of answer, see `table.segments.answers`."""
        return self._read[1]

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        return self.base["example"].to_numpy()

    @cached_property
    def units(self) -> NDArray[np.int64]:
        """What each example is resampled with, for intervals: those of one first prompt together."""
        prompts = None
        if "prompts" in self.base.columns:
            prompts = self.base["prompts"].list.first().fill_null(0).replace(0, -1).to_numpy()
        return resampling_units(self.ids, prompts)

    @cached_property
    def _known(self) -> dict[Any, Any]:
        return {}

    def once(self, key: Any, make: Callable[[], Value]) -> Value:
        """What `make` gives, made once for `key`: several sections and findings ask for the same numbers."""
        if key not in self._known:
            self._known[key] = make()
        value: Value = self._known[key]
        return value

    @cached_property
    def size(self) -> Floats:
        """The sum of the weights of each example."""
        return self.column("S0")

    @cached_property
    def example_lengths(self) -> Floats:
        """T of each example: the sum of its weights, without the weight of the whole row."""
        return self.size / self.row_weights

    @cached_property
    def row_weights(self) -> Floats:
        """The weight of the whole row of each example."""
        return self.column("row_weight") if "row_weight" in self.base.columns else np.ones(len(self.ids))

    @cached_property
    def cut(self) -> NDArray[np.bool_]:
        """Whether each example was cut off."""
        if "truncated" not in self.base.columns:
            return np.zeros(len(self.ids), dtype=bool)
        return np.nan_to_num(self.column("truncated")) > 0

    def column(self, name: str) -> Floats:
        return self.base[name].cast(pl.Float64).fill_null(np.nan).to_numpy()

    def factor(self, normalization: Normalization) -> Floats:
        """c/u of each example: w(T)/Z with Z such that all coefficients sum to 1."""
        weights = sequence_weights(self.example_lengths, normalization)
        total = float(weights @ self.size)
        return weights / total if total > 0 else weights

    def signal(self, view: View, level: str) -> Floats:
        """Each example's signal at a level ("S0", "S1", "S2", or "loss")."""
        return self.column(signal_column(view, level)) * self.factor(view.normalization)

    def origins(self, rows: NDArray[np.int64]) -> tuple[str, ...]:
        """ "file:line" of rows of `base`, the file without its folder where that is plain enough."""
        places = []
        for path, row, line in self.base[rows].select("path", "row", "line").iter_rows():
            name = self._short_paths.get(path, path)
            place = f"row {row}" if path == IN_MEMORY else f"{name} row {row}"
            places.append(f"{name}:{line}" if line is not None else place)
        return tuple(places)

    @cached_property
    def _short_paths(self) -> dict[str, str]:
        """The last part of each path; none where two files would share it."""
        short = {path: PurePath(path).name for path in self.base["path"].unique().to_list() if path}
        return short if len(set(short.values())) == len(short) else {}

    def codes(self, column: str) -> tuple[NDArray[np.int64], list[str]]:
        """A group column as codes and names; no group is its own group, "(none)"."""
        values = self.base[column].cast(pl.String).fill_null("(none)").to_numpy().astype(str)
        names, codes = np.unique(values, return_inverse=True)
        return codes.ravel().astype(np.int64), [str(name) for name in names]

    @cached_property
    def lengths(self) -> LengthStudy:
        """The trained answers under the same options: what `sftloss lengths` reports of the same rows."""
        question = LengthOptions(self.rules, replicates=self.options.replicates, seed=self.options.seed)
        return LengthStudy(
            self._answers(), len(self.ids), question, lambda ids: self.origins(np.searchsorted(self.ids, ids))
        )

    def _answers(self) -> Answers:
        trained = self.segments.filter(pl.col("count") > 0)
        codes, names = self.codes("task")
        tasks = codes if len(names) > 1 else None
        if trained.height == 0:  # no answer is trained: what is trained stands for it, without a prompt
            whole = (self.example_lengths, self.column("count"), None, tasks, self.cut)
            return ready(Lengths(self.ids, *whole, row_weights=self.row_weights))
        at = np.searchsorted(self.ids, trained["example"].to_numpy())
        prompts = trained["prompt"].to_numpy() if "prompts" in self.base.columns else None
        counts, is_cut = trained["count"].cast(pl.Float64).to_numpy(), trained["is_cut"].to_numpy()
        columns = (counts, prompts, None if tasks is None else tasks[at], is_cut)
        return ready(Lengths(self.ids[at], self.example_lengths[at], *columns, row_weights=self.row_weights[at]))

    def example_sums(self, groups: NDArray[np.int64], count: int, views: tuple[View, ...], level: str) -> GroupSums:
        """Sums of (1, trained tokens, signal of each view) by a group of examples."""
        values = [np.ones(len(self.ids)), self.column("count"), *(self.signal(view, level) for view in views)]
        return self.new_sums(count, len(values)).add(self.units, np.stack(values, axis=1), groups)

    def trained(self, needed: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], pl.DataFrame]]:
        """Chunks of the trained tokens with u, and `first` and `last` of their segment: and each one's row in `base`.

        A segment is what one role says in one go, as an answer; first and last count its trained tokens.
        """
        for chunk in self._chunks((*needed, "is_end")):
            frame = with_spans(chunk).filter(pl.col("u") > 0)
            if frame.height:
                yield np.searchsorted(self.ids, frame["example"].to_numpy()), frame

    def tokens_of(self, ids: NDArray[np.int64], columns: Sequence[str]) -> pl.DataFrame:
        """All tokens of a few examples, with u, by example and position."""
        frame = self.table.tokens(is_sorted=False).filter(pl.col("example").is_in(ids.tolist()))
        frame = self._with_weights(frame).select("example", "position", *columns)
        return frame.collect(engine="streaming").sort("example", "position")

    def _chunks(self, needed: Sequence[str]) -> Iterator[pl.DataFrame]:
        wanted = {"example", "position", "role", "weight", *self._measured, *needed} & self.columns
        for chunk in self.table.chunks(sorted(wanted)):
            yield self._with_weights(chunk.lazy()).collect()

    @cached_property
    def _measured(self) -> list[str]:
        """The columns that must be finite."""
        names = [f"{part}:{name}" for name in self.objectives for part in ("loss", "l1", "l2")]
        return [name for name in (*names, "hidden_norm") if name in self.columns]

    def _with_weights(self, tokens: pl.LazyFrame) -> pl.LazyFrame:
        """Adds u, and whether a trained token's numbers are not finite.

        One NaN would make every share NaN: such tokens are left out of all numbers, and NUM001 counts them.
        """
        weight, fine = (
            token_weight(self.options),
            pl.all_horizontal([pl.col(name).is_finite() for name in self._measured]),
        )
        u = pl.when(fine).then(weight).otherwise(0.0)
        return tokens.with_columns(u.alias("u"), ((weight > 0) & ~fine).alias("is_broken"))

    def new_sums(self, groups: int, columns: int) -> GroupSums:
        return GroupSums(groups, columns, replicates=self.options.replicates, seed=self.options.seed)


def signal_column(view: View, level: str) -> str:
    return "S0" if level == "S0" else f"{level}:{view.objective}"


def open_study(table: SignalTable, options: AnalysisOptions) -> SignalStudy:
    """Reads a table once: sums and facts of every example."""
    names = table.tokens(is_sorted=False).collect_schema().names()
    columns, objectives = frozenset(names), tuple(name[5:] for name in names if name.startswith("loss:"))
    if not objectives:
        raise DataError("the table has no measured loss", cure="measure it with at least one")
    if options.objective is not None and options.objective not in objectives:
        raise DataError(f"the table measures {', '.join(objectives)}, not {options.objective!r}")
    if options.level == "S2" and "hidden_norm" not in columns:
        raise DataError("the table has no hidden_norm", cure=f"choose {mention('level', 'S0')} or S1")
    study = SignalStudy(table, objectives, columns, options)
    if study.base.height == 0:
        raise DataError("the table has no examples", cure="check what was measured")
    return study
