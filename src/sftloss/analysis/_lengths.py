r"""What each normalisation teaches about output length, with intervals, on millions of examples in seconds.

`_tilt` has the rule (:math:`p^* \propto w\,p_{data}`) and its limits. Here it is asked of one data set under every
normalisation that a training step may use, and turned around: which exponent teaches a wanted mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sftloss.analysis._bootstrap import REPLICATES, GroupSums, ratio_interval
from sftloss.analysis._numbers import Estimate, kish_ess
from sftloss.analysis._tilt import (
    EXAMPLE_MEAN,
    SQRT,
    TOKEN_MEAN,
    Lengths,
    Normalisation,
    conflicting,
    sequence_weights,
)
from sftloss.errors import ConfigError

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
STEEPEST = 20.0  # T^-20 of a million characters is 1e-120, its square still a double
_BINS = 4096
_FEW = 30


@dataclass(frozen=True)
class LengthOptions:
    """What to predict.

    Attributes:
        normalisations: Beside sum, sqrt and example mean, those of the user.
        batch_size: Sequences in a micro-batch; None predicts nothing of steps.
        grad_accum: Micro-batches in a step of one rank.
        ranks: Data-parallel processes.
        target_mean: Mean output length for which to solve; None solves nothing.
        unit: What a length counts, in the plural: "tokens", "words", "characters".
        replicates, seed: Of the bootstrap.
    """

    normalisations: tuple[Normalisation, ...] = ()
    batch_size: int | None = None
    grad_accum: int = 1
    ranks: int = 1
    target_mean: float | None = None
    unit: str = "tokens"
    replicates: int = REPLICATES
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "grad_accum", "ranks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"LengthOptions: {name} must be at least 1, got {value}.")
        if self.batch_size is None and (self.grad_accum, self.ranks) != (1, 1):
            raise ConfigError("LengthOptions: grad_accum and ranks need batch_size, the sequences in a micro-batch.")
        if self.target_mean is not None and not 0 < self.target_mean < math.inf:
            raise ConfigError(f"LengthOptions: target_mean must be a positive length, got {self.target_mean}.")
        for one in self.normalisations:
            if abs(one.alpha) > STEEPEST:
                raise ConfigError(f"LengthOptions: the exponent must be within {STEEPEST:g} of 0, got {one.alpha:g}.")

    def all_normalisations(self) -> tuple[Normalisation, ...]:
        """Sum, sqrt and example mean, the user's own, and the token means a step may take; each rule once."""
        found = {(one.alpha, one.micro_batch): one for one in (TOKEN_MEAN, SQRT, EXAMPLE_MEAN)}
        for one in (*self.normalisations, *self.steps()):
            found.setdefault((one.alpha, one.micro_batch), one)
        return tuple(found.values())

    def steps(self) -> tuple[Normalisation, ...]:
        """Token means over a micro-batch, over one rank's step and over the whole step, each size once."""
        if self.batch_size is None:
            return ()
        per_rank = self.batch_size * self.grad_accum
        # where one size is several things, the last named, the widest, is what it is
        named = {self.batch_size: "micro-batch", per_rank: "one rank's step", per_rank * self.ranks: "whole step"}
        return tuple(Normalisation(f"token mean of {k} ({what})", micro_batch=k) for k, what in named.items())


@dataclass(frozen=True)
class Forecast:
    """What cross-entropy learns about length under one normalisation, at its optimum.

    Attributes:
        normalisation: Which.
        unconditional: Mean length if the prompt says nothing about length. Of the shift it is the upper bound.
        within_prompt: Mean length if length varies only among the answers that the data has to one prompt; None
            where prompts are unknown. Few answers to a prompt show little of their variation: it understates.
        within_task: The same for tasks; None where there are none.
        where_seen: Relative shift among the examples whose prompt has answers of several lengths; None where none.
        effective_examples: Kish's effective number of sequences under w(T).
    """

    normalisation: Normalisation
    unconditional: Estimate
    within_prompt: Estimate | None
    within_task: float | None
    where_seen: float | None
    effective_examples: float


def trained(lengths: Lengths) -> Lengths:
    """The examples with trained tokens, groups as codes from 0."""
    keep = lengths.size > 0

    def codes(groups: Codes | None) -> Codes | None:
        return None if groups is None else np.unique(groups[keep], return_inverse=True)[1].ravel()

    return Lengths(
        lengths.ids[keep], lengths.size[keep], lengths.output[keep], codes(lengths.prompts), codes(lengths.tasks)
    )


def forecasts(lengths: Lengths, options: LengthOptions | None = None) -> tuple[Forecast, ...]:
    r"""The mean output length that each normalisation teaches, from the lengths alone.

    .. math:: \bar T_w = \frac{\sum_i w(T_i)\,T_i}{\sum_i w(T_i)}, \qquad w(T) = T^{-\alpha}
        \text{ or } E\,\frac{1}{T + T'_1 + \dots + T'_{k-1}}

    Args:
        lengths: Each example's length, prompt and task; arrays of shape ``(examples,)``.
        options: Which normalisations, and the size of a step.

    Returns:
        One forecast a normalisation, in the order of `LengthOptions.all_normalisations`. Intervals: 95 %, bootstrap
        over prompts where there are at least 30, else over examples.

    Example:
        >>> import numpy as np
        >>> two = Lengths(np.arange(2), np.array([2.0, 8.0]), np.array([2.0, 8.0]), prompts=np.array([7, 7]))
        >>> [round(one.within_prompt.value, 2) for one in forecasts(two)]     # sum, sqrt, example mean
        [5.0, 4.0, 3.2]
    """
    options, lengths = options or LengthOptions(), trained(lengths)
    rules = options.all_normalisations()
    spread = resampling(lengths, options)
    return tuple(_forecast(lengths, rule, spread) for rule in rules)


Ratio = Callable[[Floats, Floats], Estimate]


def resampling(lengths: Lengths, options: LengthOptions) -> Ratio:
    """A function from two columns of examples to the ratio of their sums, with its interval.

    Answers to one prompt are resampled together. Above 4096 units, units are first thrown together at random into
    4096 sums, whose bootstrap has the same limit: the time no longer grows with the data, and the interval's width
    is off by about 1 %.
    """
    groups = lengths.prompts
    count = 0 if groups is None else len(np.unique(groups))
    units = np.unique(lengths.ids, return_inverse=True)[1].ravel() if groups is None or count < _FEW else groups
    total = int(units.max(initial=-1)) + 1
    if total > _BINS:
        units = np.random.default_rng(options.seed).integers(0, _BINS, total)[units]
        total = _BINS

    def ratio(top: Floats, bottom: Floats) -> Estimate:
        columns = np.stack([bin_sums(units, part, total) for part in (top, bottom)], axis=1)
        sums = GroupSums(1, 2, replicates=options.replicates, seed=options.seed).add(np.arange(total), columns)
        value = sums.total[0, 0] / sums.total[0, 1] if sums.total[0, 1] > 0 else math.nan
        return Estimate(float(value), ratio_interval(sums.replicates[:, 0, 0], sums.replicates[:, 0, 1]))

    return ratio


def bin_sums(codes: Codes, values: Floats, count: int = 0) -> Floats:
    """The sum of `values` for each code, shape ``(codes,)``."""
    return np.asarray(np.bincount(codes, values, minlength=count), dtype=np.float64)


def _forecast(lengths: Lengths, rule: Normalisation, spread: Ratio) -> Forecast:
    weights = sequence_weights(lengths.size, rule)
    whole = spread(weights * lengths.output, weights)
    return Forecast(
        rule,
        whole,
        None if lengths.prompts is None else _within_prompt(lengths, weights, whole, spread),
        None if lengths.tasks is None else float(group_means(lengths, weights, lengths.tasks).mean()),
        _where_seen(lengths, weights),
        kish_ess(weights),
    )


def group_means(lengths: Lengths, weights: Floats, groups: Codes) -> Floats:
    """Each example's predicted mean length: that of its group under `weights`."""
    return (np.bincount(groups, weights * lengths.output) / np.bincount(groups, weights))[groups]


def _within_prompt(lengths: Lengths, weights: Floats, whole: Estimate, spread: Ratio) -> Estimate:
    assert lengths.prompts is not None
    count = int(lengths.prompts.max(initial=-1)) + 1
    if count == 1:  # the prompt says nothing indeed
        return whole
    means = group_means(lengths, weights, lengths.prompts)
    if count < _FEW:
        return Estimate(float(means.mean()), reason=f"{count} prompts, fewer than {_FEW}")
    return spread(means, np.ones(len(means)))


def _where_seen(lengths: Lengths, weights: Floats) -> float | None:
    if lengths.prompts is None:
        return None
    seen = conflicting(lengths.output, lengths.prompts)
    if not seen.any():
        return None
    means = group_means(lengths, weights, lengths.prompts)
    return float(means[seen].sum() / lengths.output[seen].sum() - 1.0)


def alpha_for_length(lengths: Lengths, target: float, given: Codes | None = None) -> float:
    """The exponent alpha at which T^-alpha teaches the mean length `target`; NaN where none within +-20 does.

    Only the variation inside the groups `given` tilts, all of it where there are none. The mean falls as alpha
    grows wherever longer outputs have larger T, so bisection finds the one solution.

    Example:
        >>> import numpy as np
        >>> two = Lengths(np.arange(2), np.array([2.0, 8.0]), np.array([2.0, 8.0]))
        >>> round(alpha_for_length(two, 3.2), 6)      # the harmonic mean
        1.0
    """
    lengths = trained(Lengths(lengths.ids, lengths.size, lengths.output, given))
    if given is None:
        size, output, count = _distinct(lengths)
        codes, rest = np.zeros(len(size), dtype=np.int64), 0.0
    else:
        assert lengths.prompts is not None
        varied = conflicting(lengths.output, lengths.prompts)
        size, output = lengths.size[varied], lengths.output[varied]
        count, rest = np.ones(len(size)), float(lengths.output[~varied].sum())
        codes = np.unique(lengths.prompts[varied], return_inverse=True)[1].ravel()
    if not len(size):
        return math.nan
    logs = np.log(size) - np.log(_group_min(size, codes))[codes]
    members = np.bincount(codes, count)

    def gap(alpha: float) -> float:
        weights = count * np.exp(-alpha * logs)  # the shortest of a group has weight 1: nothing overflows within +-20
        means = np.bincount(codes, weights * output) / np.bincount(codes, weights)
        return float(members @ means + rest) / len(lengths.size) - target

    return _root(gap)


def _root(gap: Callable[[float], float]) -> float:
    low, high = -STEEPEST, STEEPEST
    if not gap(low) > 0 > gap(high):
        return math.nan
    for _ in range(44):  # 40 / 2^44 is 2e-12
        middle = (low + high) / 2.0
        low, high = (middle, high) if gap(middle) > 0 else (low, middle)
    return (low + high) / 2.0


def _distinct(lengths: Lengths) -> tuple[Floats, Floats, Floats]:
    """Distinct pairs of size and output with how often each occurs: few, however many examples there are."""
    pairs, count = np.unique(lengths.size + 1j * lengths.output, return_counts=True)
    return pairs.real, pairs.imag, count.astype(np.float64)


def _group_min(values: Floats, codes: Codes) -> Floats:
    found = np.full(int(codes.max(initial=-1)) + 1, np.inf)
    np.minimum.at(found, codes, values)
    return found
