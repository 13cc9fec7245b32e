"""Measured gradients of some examples, beside the table's signal of the same examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl

from sftloss import numbers
from sftloss.analysis.signal.frames import SignalStudy
from sftloss.analysis.signal.views import AnalysisOptions, View
from sftloss.numbers import Codes, Estimate, Floats


@dataclass(frozen=True)
class Cosines:
    """Cosines between the gradients of groups of examples, ``(groups, groups)``; `column` is what groups them."""

    column: str
    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class MeasuredGradients:
    """Gradients of the examples of a subset.

    Attributes:
        examples: Columns ``example`` (its id), ``norm:LOSS`` for each loss (of its tokens' weighted sum, before any
            normalization) and, in additive mode, ``share`` (of the update of the trained loss and normalization).
        coverage: The weights that the norms hold, in words.
        update: How the shares were made, in words; empty where there are none.
        wholes: By loss, the norm of the subset's gradient under the trained normalization; empty without shares.
        cosines: Between tasks, and between languages, where there are several.
        tokens: Columns ``example``, ``position`` and ``share`` of the trained tokens; None without shares.
    """

    examples: pl.DataFrame
    coverage: str
    update: str = ""
    wholes: Mapping[str, float] = field(default_factory=dict)
    cosines: tuple[Cosines, ...] = ()
    tokens: pl.DataFrame | None = None


@dataclass(frozen=True)
class GradientStudy:
    """Measured gradients with the study of the same table."""

    study: SignalStudy
    measured: MeasuredGradients

    @property
    def options(self) -> AnalysisOptions:
        """Those of the study."""
        return self.study.options

    @cached_property
    def _joined(self) -> pl.DataFrame:
        ids = pl.DataFrame({"example": self.study.ids, "row": np.arange(len(self.study.ids))})
        trained = ids.filter(pl.Series(self.study.size > 0))
        joined = self.measured.examples.join(trained, on="example", how="inner").sort("row")
        return joined.filter(pl.all_horizontal(pl.col("^norm:.*$").is_finite()))

    @property
    def rows(self) -> Codes:
        """Rows of the study's `base` that have a measured gradient and train something."""
        return self._joined["row"].to_numpy().astype(np.int64)

    @property
    def units(self) -> Codes:
        """What each is resampled with."""
        return self.study.units[self.rows]

    @property
    def size(self) -> Floats:
        """T of each."""
        return self.study.example_lengths[self.rows]

    def norms(self, view: View | None = None) -> Floats:
        """Norm of each example's gradient under a loss and a normalization, by default the trained ones."""
        view = view or self.study.view
        return self._joined[f"norm:{view.objective}"].to_numpy() * self.study.factor(view.normalization)[self.rows]

    @property
    def shares(self) -> Floats | None:
        """Share of each example in the update, adding up to 1; None where they were not measured."""
        if "share" not in self._joined.columns:
            return None
        values = self._joined["share"].to_numpy().astype(np.float64)
        return values if np.isfinite(values).all() else None

    def mean_loss(self, view: View | None = None) -> Floats:
        """Mean loss of the trained tokens of each example, by default under the trained loss."""
        name = (view or self.study.view).objective
        return (self.study.column(f"loss:{name}") / np.where(self.study.size > 0, self.study.size, 1))[self.rows]

    def noise_scale(self, view: View | None = None) -> float:
        """Gradient noise scale in examples; infinite below the noise, NaN where the whole gradient is not known."""
        view = view or self.study.view
        whole = self.measured.wholes.get(view.objective, float("nan"))
        is_trained = view.normalization == self.options.normalization
        if len(self.rows) < 2 or not np.isfinite(whole) or not is_trained:
            return float("nan")
        return numbers.noise_scale(self.norms(view), whole).examples

    def law(self, view: View) -> Estimate:
        """Elasticity of the norm in T, with its interval."""
        draws = {"replicates": self.options.replicates, "seed": self.options.seed}
        return numbers.elasticity(self.size, self.norms(view), self.units, **draws)
