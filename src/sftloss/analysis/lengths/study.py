"""Lengths under options: everything that the sections on output length share, computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sftloss.analysis.lengths.answers import Answers, Resampling
from sftloss.analysis.lengths.forecast import LengthForecast, LengthOptions, forecast
from sftloss.numbers import Estimate
from sftloss.weights import TOKEN_MEAN, Normalization

Origins = Callable[[NDArray[np.int64]], tuple[str, ...]]


@dataclass(frozen=True)
class LengthStudy:
    """The answers of a data set, how many examples there are with the untrained ones, and the question."""

    answers: Answers
    count: int
    options: LengthOptions
    origins: Origins | None = None

    @cached_property
    def spread(self) -> Resampling:
        return Resampling(self.answers.units, replicates=self.options.replicates, seed=self.options.seed)

    @cached_property
    def forecasts(self) -> tuple[LengthForecast, ...]:
        return tuple(forecast(self.answers, rule, self.spread) for rule in self.options.all_normalizations())

    @property
    def used(self) -> Normalization | None:
        """What the user trains with, where they said so."""
        if not self.options.normalizations:
            return None
        first = self.options.normalizations[0]
        rules = self.options.all_normalizations()
        return next(one for one in rules if (one.alpha, one.micro_batch) == (first.alpha, first.micro_batch))

    def forecast(self, rule: Normalization) -> LengthForecast:
        """What one of the normalizations teaches, whatever it is called."""
        key = (rule.alpha, rule.micro_batch)
        return next(f for f in self.forecasts if (f.normalization.alpha, f.normalization.micro_batch) == key)

    @cached_property
    def data(self) -> Estimate:
        """Mean length of the data: what alpha 0 teaches."""
        return self.forecast(TOKEN_MEAN).unconditional

    @property
    def reason(self) -> str:
        """Why the data cannot show a tilt given the prompt; empty where it can."""
        return self.answers.cannot_tell

    @cached_property
    def seen_share(self) -> Estimate:
        seen = self.answers.seen
        return self.spread.ratio(seen.astype(np.float64), np.ones(len(seen)))

    def rows(self, at: NDArray[np.int64]) -> tuple[str, ...]:
        """ "file:line" of the examples of answers, each once, at most ten."""
        ids = np.array(list(dict.fromkeys(self.answers.ids[at].tolist()))[:10], dtype=np.int64)
        return () if self.origins is None else self.origins(ids)
