r"""Which output lengths a normalisation teaches, from the lengths alone.

At its optimum, cross-entropy with a weight w(y) on every token of sequence y learns the reweighted data,
:math:`p^*(y|x) = w(y)\,p_{data}(y|x) / E[w|x]`: the pointwise optimum is
:math:`p^*(v|\text{prefix}) = E[w\,1\{y_t=v\}|\text{prefix}] / E[w|\text{prefix}]`, and the product over the positions
telescopes. So a normalisation that depends on the length T teaches the mean length
:math:`\sum_i w_i T_i / \sum_i w_i`: the arithmetic mean for w = 1, the harmonic mean for w = 1/T.

The limits are part of the answer. It is a statement about the optimum of cross-entropy. Only the variation of length
*given the prompt* tilts: the unconditional mean is an upper bound of the shift, the within-prompt mean is the
shift that the data can show, and data without repeated prompts cannot tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sftloss.analysis._bootstrap import REPLICATES, GroupSums, ratio_interval
from sftloss.analysis._numbers import Estimate, cannot_tell, kish_ess

Floats = NDArray[np.float64]
SHARED = 0.05  # share of examples whose prompt has other answers, below which they stand for nobody else


@dataclass(frozen=True)
class Normalisation:
    """How the weight of a sequence depends on its length: T^-alpha, or token means of micro-batches.

    Attributes:
        name: What reports call it.
        alpha: Exponent: 0 gives every token the same weight, 1 every sequence.
        micro_batch: Number of sequences in a micro-batch whose token mean is taken before averaging over
            micro-batches; None where there is one denominator for the whole step. `alpha` is then not used.
    """

    name: str
    alpha: float = 0.0
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"Normalisation: micro_batch must be at least 1, got {self.micro_batch}.")


TOKEN_MEAN = Normalisation("token mean", 0.0)
EXAMPLE_MEAN = Normalisation("example mean", 1.0)
SQRT = Normalisation("sqrt", 0.5)


def micro_batch_mean(sequences: int) -> Normalisation:
    """Token means of micro-batches of `sequences`, averaged: what plain gradient accumulation does."""
    return Normalisation(f"token mean of {sequences}", micro_batch=sequences)


def sequence_weights(lengths: ArrayLike, normalisation: Normalisation) -> Floats:
    """w(T) of each sequence, up to a constant factor: 0 where T is 0."""
    lengths = np.asarray(lengths, dtype=np.float64)
    weights = np.zeros_like(lengths)
    trained = lengths > 0
    if normalisation.micro_batch is None:
        weights[trained] = lengths[trained] ** -normalisation.alpha
    elif trained.any():
        weights[trained] = _micro_batch_weights(lengths[trained], normalisation.micro_batch)
    return weights


def _micro_batch_weights(lengths: Floats, sequences: int) -> Floats:
    r"""w(T) = E[1 / (T + T'_1 + ... + T'_{k-1})], the others drawn from the same lengths, exact to rounding.

    :math:`1/a = \int_0^\infty e^{-\lambda a} d\lambda`, so with :math:`M(\lambda) = E e^{-\lambda T'}` the
    expectation over k-1 independent lengths is :math:`\int e^{-\lambda T} M(\lambda)^{k-1} d\lambda`: no
    enumeration, no Monte Carlo, any real lengths. In :math:`u = \log\lambda` the integrand is smooth and dies at
    both ends, where the trapezoid rule converges exponentially.
    """
    distinct, code, count = np.unique(lengths, return_inverse=True, return_counts=True)
    if sequences == 1:
        return 1.0 / lengths
    # e^u is the left tail: 1e-16 of the integral lies below 1e-16 over the largest possible total
    low, high = np.log(1e-16 / (sequences * distinct[-1])), np.log(750.0 / (sequences * distinct[0]))
    steps = int(np.ceil((high - low) / 0.08))
    rates = np.exp(np.linspace(low, high, steps + 1))
    step = (high - low) / steps
    share = count / count.sum()
    result = np.zeros(len(distinct))
    for block in np.array_split(rates, max(1, len(distinct) * len(rates) // 4_000_000 + 1)):
        decay = np.exp(-block[:, None] * distinct[None, :])
        result += (block * step * (decay @ share) ** (sequences - 1)) @ decay
    return result[code.ravel()]


def mean_length(lengths: ArrayLike, weights: ArrayLike) -> float:
    """Mean output length of the data reweighted: sum w T / sum w; NaN where nothing has weight."""
    lengths, weights = np.asarray(lengths, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    total = weights.sum()
    return float(weights @ lengths / total) if total > 0 else float("nan")


def within_groups(lengths: ArrayLike, weights: ArrayLike, groups: ArrayLike) -> float:
    """Mean predicted length where only the variation inside each group tilts, groups as frequent as in the data."""
    lengths, weights = np.asarray(lengths, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    codes = np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
    total, weighted = np.bincount(codes, weights), np.bincount(codes, weights * lengths)
    size = np.bincount(codes, weights > 0)
    has = total > 0
    return float((size[has] * weighted[has] / total[has]).sum() / size.sum()) if has.any() else float("nan")


def conflicting(lengths: ArrayLike, groups: ArrayLike) -> NDArray[np.bool_]:
    """Which examples share their group with an example of another length: where the tilt can act."""
    lengths = np.asarray(lengths, dtype=np.float64)
    codes = np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
    low, high = np.full(codes.max(initial=-1) + 1, np.inf), np.full(codes.max(initial=-1) + 1, -np.inf)
    np.minimum.at(low, codes, lengths)
    np.maximum.at(high, codes, lengths)
    return (high > low)[codes]


@dataclass(frozen=True)
class Tilt:
    """What one normalisation teaches about length.

    Attributes:
        normalisation: Which.
        unconditional: Mean length if the prompt says nothing about length: the upper bound of the shift.
        within_prompt, within_task: Mean length if length varies only inside prompts or tasks; None without groups.
        effective_examples: Kish's effective number of sequences under w(T).
    """

    normalisation: Normalisation
    unconditional: Estimate
    within_prompt: float | None
    within_task: float | None
    effective_examples: float


@dataclass(frozen=True)
class Lengths:
    """Each example's facts about length, shape ``(examples,)``.

    `size` is T, what the normalisation divides by (sum of weights); `output` the tokens a reader counts as the answer.
    `prompts` is None where prompts are not known; `tasks` where there are none.
    """

    ids: NDArray[np.int64]
    size: Floats
    output: Floats
    prompts: NDArray[np.int64] | None = None
    tasks: NDArray[np.int64] | None = None

    def cannot_tell(self) -> str:
        """Why the data cannot show a tilt given the prompt, or an empty string."""
        reason = cannot_tell(self.output[self.size > 0])
        if reason:
            return reason
        shared = 0.0 if self.prompts is None else float(conflicting(self.output, self.prompts).mean())
        if shared == 0:
            return "no prompt has two answers of different length"
        if shared < SHARED:
            return f"only {100 * shared:.1f} % of the examples share a prompt with an answer of another length"
        return ""


def predict(lengths: Lengths, normalisation: Normalisation, *, replicates: int = REPLICATES, seed: int = 0) -> Tilt:
    """The mean output length that cross-entropy with this normalisation learns, and on how much data it rests."""
    weights = sequence_weights(lengths.size, normalisation)
    columns = np.stack([weights * lengths.output, weights], axis=1)
    sums = GroupSums(1, 2, replicates=replicates, seed=seed).add(lengths.ids, columns).replicates[:, 0]
    return Tilt(
        normalisation,
        Estimate(mean_length(lengths.output, weights), ratio_interval(sums[:, 0], sums[:, 1])),
        None if lengths.prompts is None else within_groups(lengths.output, weights, lengths.prompts),
        None if lengths.tasks is None else within_groups(lengths.output, weights, lengths.tasks),
        kish_ess(weights),
    )


def alpha_for_mean(lengths: ArrayLike, target: float) -> float:
    """The exponent alpha at which T^-alpha teaches the mean length `target`; NaN where no exponent does.

    The mean falls as alpha grows (its derivative is minus the covariance of T and log T under the weights), so
    bisection finds the one solution. Negative means that longer answers must be favoured.
    """
    lengths = np.asarray(lengths, dtype=np.float64)
    lengths = lengths[lengths > 0]
    if len(lengths) == 0 or not lengths.min() < target < lengths.max():
        return float("nan")
    logs = np.log(lengths) - np.log(target)

    def gap(alpha: float) -> float:
        weights = -alpha * logs
        return mean_length(lengths, np.exp(weights - weights.max())) - target

    low, high = -1.0, 1.0
    while gap(low) < 0:
        low *= 2.0
    while gap(high) > 0:
        high *= 2.0
    for _ in range(80):
        middle = (low + high) / 2.0
        low, high = (middle, high) if gap(middle) > 0 else (low, middle)
    return (low + high) / 2.0
