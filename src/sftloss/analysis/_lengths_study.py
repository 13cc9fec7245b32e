"""Lengths under options: everything that the sections on output length share, computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sftloss.analysis._lengths import Forecast, LengthOptions, forecasts, resampling
from sftloss.analysis._numbers import Estimate
from sftloss.analysis._tilt import TOKEN_MEAN, Lengths, Normalisation, conflicting

Floats = NDArray[np.float64]
Origins = Callable[[NDArray[np.int64]], tuple[str, ...]]


@dataclass(frozen=True)
class LengthStudy:
    """The trained examples of a data set (`lengths`), how many there are with the untrained ones, and the question."""

    lengths: Lengths
    count: int
    options: LengthOptions
    origins: Origins | None = None

    @cached_property
    def forecasts(self) -> tuple[Forecast, ...]:
        return forecasts(self.lengths, self.options)

    @property
    def used(self) -> Normalisation | None:
        """What the user trains with, where they said so."""
        if not self.options.normalisations:
            return None
        first = self.options.normalisations[0]
        rules = self.options.all_normalisations()
        return next(one for one in rules if (one.alpha, one.micro_batch) == (first.alpha, first.micro_batch))

    def forecast(self, rule: Normalisation) -> Forecast:
        return next(one for one in self.forecasts if one.normalisation == rule)

    @cached_property
    def data(self) -> Estimate:
        """Mean length of the data: what alpha 0 teaches."""
        return self.forecast(TOKEN_MEAN).unconditional

    @cached_property
    def reason(self) -> str:
        """Why the data cannot show a tilt given the prompt; empty where it can."""
        return self.lengths.cannot_tell()

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Examples whose prompt has answers of several lengths."""
        if self.lengths.prompts is None:
            return np.zeros(len(self.lengths.ids), dtype=bool)
        return conflicting(self.lengths.output, self.lengths.prompts)

    @cached_property
    def seen_share(self) -> Estimate:
        spread = resampling(self.lengths, self.options)
        return spread(self.seen.astype(np.float64), np.ones(len(self.seen)))

    def rows(self, at: NDArray[np.int64]) -> tuple[str, ...]:
        """ "file:line" of trained examples, where the reader told."""
        return () if self.origins is None else self.origins(self.lengths.ids[at])
