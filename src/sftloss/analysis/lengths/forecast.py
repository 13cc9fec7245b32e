r"""The mean output length that each normalization leads to, with intervals, on millions of examples in seconds.

`tilt` has the rule (:math:`p^* \propto w\,p_{data}`) and its limits. Here it is applied to one data set under every
normalization that a training step may use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sftloss.analysis.lengths.answers import Answers, Resampling, are_counted, ready
from sftloss.analysis.lengths.tilt import Lengths, sequence_weights
from sftloss.document import Interval
from sftloss.errors import ConfigError, mention
from sftloss.numbers import Codes, Estimate, Floats, kish_ess
from sftloss.numbers.bootstrap import REPLICATES
from sftloss.weights import EXAMPLE_MEAN, SQRT, TOKEN_MEAN, Normalization
from sftloss.weights.normalization import Batches
from sftloss.words import number

Origins = Callable[[NDArray[np.int64]], tuple[str, ...]]
LEAST_SHIFT = 0.05
"""A change of mean length below 5 % is not worth a finding."""
BOUND, WITHIN = "at the bound", "within prompts"
"""The two assumptions: all answers are one pool, or only answers to the same prompt are compared."""
STEEPEST = 20.0  # T^-20 of a million characters is 1e-120, its square still a double


@dataclass(frozen=True)
class LengthOptions:
    """What to predict.

    Attributes:
        normalizations: Beside sum, sqrt and example mean, those of the user.
        batch_size: Sequences in a micro-batch; None predicts nothing of steps.
        grad_accum: Micro-batches in a step of one rank.
        ranks: Data-parallel processes.
        batches: How micro-batches are put together.
        target_mean: Mean output length for which to solve; None solves nothing.
        unit: What a length counts, in the plural: "tokens", "words", "characters".
        replicates, seed: Of the bootstrap.
    """

    normalizations: tuple[Normalization, ...] = ()
    batch_size: int | None = None
    grad_accum: int = 1
    ranks: int = 1
    batches: Batches = "random"
    target_mean: float | None = None
    unit: str = "tokens"
    replicates: int = REPLICATES
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "grad_accum", "ranks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"must be at least 1, got {value}", option=name)
        if self.batch_size is None and (self.grad_accum, self.ranks) != (1, 1):
            raise ConfigError(
                f"{mention('grad_accum')} and {mention('ranks')} need {mention('batch_size')}, the examples "
                "per micro-batch"
            )
        if self.target_mean is not None and not 0 < self.target_mean < math.inf:
            raise ConfigError(f"must be a positive length, got {self.target_mean}", option="target_mean")
        for one in self.normalizations:
            if abs(one.alpha) > STEEPEST:
                raise ConfigError(
                    f"an exponent must be within {STEEPEST:g} of 0, got {one.alpha:g}", option="normalization"
                )

    def all_normalizations(self) -> tuple[Normalization, ...]:
        """Sum, sqrt and example mean, the user's own, and the token means a step may take; each rule once."""
        rules = {(one.alpha, one.micro_batch): one for one in (TOKEN_MEAN, SQRT, EXAMPLE_MEAN)}
        for one in (*self.normalizations, *self.steps()):
            rules.setdefault((one.alpha, one.micro_batch), one)
        return tuple(rules.values())

    def steps(self) -> tuple[Normalization, ...]:
        """Token means over a micro-batch, over one rank's step and over the whole step, each size once."""
        if self.batch_size is None:
            return ()
        per_rank = self.batch_size * self.grad_accum
        # where one size is several things, the last named, the widest, is what it is
        named = {self.batch_size: "micro-batch", per_rank: "one rank's step", per_rank * self.ranks: "whole step"}
        return tuple(Normalization(f"token mean of {k:,} ({what})", 0.0, k, self.batches) for k, what in named.items())


@dataclass(frozen=True)
class LengthForecast:
    """What cross-entropy learns about length under one normalization, at its optimum.

    Attributes:
        normalization: Which.
        unconditional: Mean length of an answer if its prompt says nothing about length: of the shift the upper bound.
        within_prompt: Mean length if length varies only among the answers that the data has to one prompt; None
            where prompts are unknown. Few answers to a prompt show little of their variation: it understates.
        within_task: The same for tasks; None where there are none.
        where_seen: Relative shift among the examples whose prompt has answers of several lengths; None where none.
        effective_examples: Kish's effective number of sequences under w(T) and the weights of rows.
    """

    normalization: Normalization
    unconditional: Estimate
    within_prompt: Estimate | None
    within_task: float | None
    where_seen: float | None
    effective_examples: float


def length_forecasts(lengths: Lengths, options: LengthOptions | None = None) -> tuple[LengthForecast, ...]:
    r"""The predicted mean output length under each normalization, from the lengths alone.

    .. math:: \bar T_w = \frac{\sum_i r_i\,w(T_i)\,T_i}{\sum_i r_i\,w(T_i)}, \qquad w(T) = T^{-\alpha}
        \text{ or } E\,\frac{1}{T + T'_1 + \dots + T'_{k-1}}

    Here r is the weight of a whole row; the data's own mean is that of :math:`w = 1`.

    Args:
        lengths: Each answer's length, prompt and task; arrays of shape ``(answers,)``.
        options: Which normalizations, and the size of a step.

    Returns:
        One forecast a normalization, in the order of `LengthOptions.all_normalizations`. Intervals: 95 %, bootstrap
        over examples, those of one prompt together; none below 5 prompts.

    Example:
        >>> import numpy as np
        >>> two = Lengths(np.arange(2), np.array([2.0, 8.0]), np.array([2.0, 8.0]), prompts=np.array([7, 7]))
        >>> [round(one.within_prompt.value, 2) for one in length_forecasts(two)]     # sum, sqrt, example mean
        [5.0, 4.0, 3.2]
    """
    options, answers = options or LengthOptions(), ready(lengths)
    spread = Resampling(answers.units, replicates=options.replicates, seed=options.seed)
    return tuple(forecast(answers, rule, spread) for rule in options.all_normalizations())


def forecast(answers: Answers, rule: Normalization, spread: Resampling) -> LengthForecast:
    """The forecast for one normalization: the one place where it is computed, for `lengths` and for `analyze`."""
    counted = kish_ess(sequence_weights(answers.sizes, rule) * answers.row_weights)
    if not len(answers.ids):  # every answer is cut off: no length is known
        return LengthForecast(rule, Estimate(math.nan), None, None, None, counted)
    weights = answers.weights(rule)
    whole = _mean_length(spread.ratio(weights * answers.output, weights), answers)
    return LengthForecast(
        rule,
        whole,
        None if answers.prompts is None else _within_prompt(answers, weights, whole, spread),
        _within_task(answers, weights),
        _where_seen(answers, weights),
        counted,
    )


@dataclass(frozen=True)
class LengthRange:
    """What is known of the mean output length under one normalization: a range, not a number.

    Attributes:
        data: Mean output length of the data.
        within_prompt: The mean at the optimum on the training prompts. It is the data's where no prompt has answers of
            several lengths, or prompts are not known.
        whole: The mean if prompts leave the length open: the bound of the shift.
        interval: Of the bound.
        cannot_tell: Why the data cannot show how much prompts leave open; empty where it can.
    """

    data: float
    within_prompt: float
    whole: float
    interval: Interval | None = None
    cannot_tell: str = ""

    @property
    def largest_shift(self) -> float:
        """The shift at the bound, as a share of the data's mean."""
        return self.whole / self.data - 1.0

    @property
    def is_shown(self) -> bool:
        """Whether the data itself shows a shift of 5 % or more."""
        return not self.cannot_tell and abs(self.within_prompt / self.data - 1.0) >= LEAST_SHIFT

    def words(self, unit: str = "") -> str:
        """The range in words: "14 tokens within prompts, 4.98 at the bound"."""
        first, last = number(self.within_prompt), number(self.whole)
        unit = f" {unit}" if unit else ""
        return f"{first}{unit}" if first == last else f"{first}{unit} {WITHIN}, {last} {BOUND}"


def _range(one: LengthForecast, data: float, cannot_tell: str = "") -> LengthRange:
    within = data if one.within_prompt is None else one.within_prompt.value
    return LengthRange(data, within, one.unconditional.value, one.unconditional.interval, cannot_tell)


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
        """The forecast of one of the normalizations, whatever it is called."""
        key = (rule.alpha, rule.micro_batch)
        return next(f for f in self.forecasts if (f.normalization.alpha, f.normalization.micro_batch) == key)

    def range_of(self, rule: Normalization) -> LengthRange:
        """The range of the mean under one normalization."""
        return _range(self.forecast(rule), self.data.value, self.reason)

    @cached_property
    def data(self) -> Estimate:
        """Mean length of the data: the forecast of alpha 0."""
        return self.forecast(TOKEN_MEAN).unconditional

    @property
    def reason(self) -> str:
        """Why the data cannot show a tilt given the prompt; empty where it can."""
        return self.answers.cannot_tell

    @cached_property
    def seen_share(self) -> Estimate:
        seen = self.answers.seen
        return self.spread.share(seen)

    def rows(self, at: NDArray[np.int64]) -> tuple[str, ...]:
        """ "file:line" of the examples of answers, each once, at most ten."""
        ids = np.array(list(dict.fromkeys(self.answers.ids[at].tolist()))[:10], dtype=np.int64)
        return () if self.origins is None else self.origins(ids)


def forecasts_by_task(lengths: Lengths, rule: Normalization) -> dict[str, LengthRange]:
    """The predicted mean answer length of each task, and under the empty name of all of them.

    Tasks whose answers are all cut off are left out. The weight of an answer is that of its example among all
    examples, whatever their task.

    Example:
        >>> import numpy as np
        >>> two = Lengths(np.arange(2), np.array([2.0, 8.0]), np.array([2.0, 8.0]), prompts=np.array([7, 7]))
        >>> round(forecasts_by_task(two, EXAMPLE_MEAN)[""].within_prompt, 2)
        3.2
    """
    codes = np.zeros(len(lengths.ids), dtype=np.int64) if lengths.tasks is None else lengths.tasks
    answers, codes = ready(lengths), codes[are_counted(lengths)]
    chosen = {"": np.ones(len(codes), dtype=bool)}
    chosen |= {name: codes == code for code, name in enumerate(lengths.task_names) if name is not None}
    ranges = {}
    for name, keep in chosen.items():
        if keep.any():
            part = answers.only(keep)
            one = forecast(part, rule, Resampling(part.units, replicates=0))
            ranges[name] = _range(one, float(np.average(part.output, weights=part.counts)))
    return ranges


def bin_sums(codes: Codes, values: Floats, count: int = 0) -> Floats:
    """The sum of `values` for each code, shape ``(codes,)``."""
    return np.asarray(np.bincount(codes, values, minlength=count), dtype=np.float64)


def group_means(output: Floats, weights: Floats, groups: Codes) -> Floats:
    """Each answer's predicted mean length: that of its group under `weights`."""
    return (np.bincount(groups, weights * output) / np.bincount(groups, weights))[groups]


def _within_prompt(answers: Answers, weights: Floats, whole: Estimate, spread: Resampling) -> Estimate:
    assert answers.prompts is not None
    count = int(answers.prompts.max(initial=-1)) + 1
    if count == 1 and answers.has_prompt.all():  # the prompt says nothing indeed
        return whole
    means = group_means(answers.output, weights, answers.prompts)
    return _mean_length(spread.ratio(means * answers.counts, answers.counts), answers)


def _mean_length(mean: Estimate, answers: Answers) -> Estimate:
    """The estimate, whose interval does not go below 1: no answer is shorter. Five prompts may give an end of 1e-5."""
    if mean.interval is None:
        return mean
    least = min(1.0, float(answers.output.min()))
    return replace(mean, interval=replace(mean.interval, low=max(mean.interval.low, least)))


def _within_task(answers: Answers, weights: Floats) -> float | None:
    if answers.tasks is None:
        return None
    return float(np.average(group_means(answers.output, weights, answers.tasks), weights=answers.counts))


def _where_seen(answers: Answers, weights: Floats) -> float | None:
    seen = answers.seen
    if answers.prompts is None or not seen.any():
        return None
    means = group_means(answers.output, weights, answers.prompts)
    counts = answers.counts[seen]
    return float(means[seen] @ counts / (answers.output[seen] @ counts) - 1.0)
