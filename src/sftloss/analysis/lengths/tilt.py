r"""The output lengths that a normalization leads to, from the lengths alone.

At its optimum, cross-entropy with a weight w(y) on every token of sequence y learns the reweighted data,
:math:`p^*(y|x) = w(y)\,p_{data}(y|x) / E[w|x]`: the pointwise optimum is
:math:`p^*(v|\text{prefix}) = E[w\,1\{y_t=v\}|\text{prefix}] / E[w|\text{prefix}]`, and the product over the positions
telescopes. So under a normalization that depends on the length T the mean length at the optimum is
:math:`\sum_i w_i T_i / \sum_i w_i`: the arithmetic mean for w = 1, the harmonic mean for w = 1/T.

A conversation with several trained answers is one sequence to the normalization: all its tokens have the weight w(T) of
the whole. At the optimum each answer is then learned from the data reweighted by w(T), given everything before it, so
the same formula holds answer by answer, with the answer's own length in place of T in the mean.

The limits are part of the answer. It is a statement about the optimum of cross-entropy. Only the variation of length
*given the prompt* tilts: the unconditional mean is an upper bound of the shift, the within-prompt mean is the
shift that the data can show, and data without repeated prompts cannot tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sftloss.numbers import Codes, Floats
from sftloss.weights import Normalization

_RUN, _DRAWN = 50, 200_000  # batches that transformers sorts together; sequences drawn for the mean weights


def sequence_weights(lengths: ArrayLike, normalization: Normalization) -> Floats:
    """w(T) of each sequence, up to a constant factor: 0 where T is 0."""
    lengths = np.asarray(lengths, dtype=np.float64)
    weights = np.zeros_like(lengths)
    trained = lengths > 0
    if normalization.micro_batch is None:
        weights[trained] = lengths[trained] ** -normalization.alpha
    elif normalization.batches == "packed":
        weights[trained] = 1.0  # rows of one size hold equally many tokens, up to what does not fill the last place
    elif trained.any():
        weigh = _by_length_weights if normalization.batches == "by-length" else _micro_batch_weights
        weights[trained] = weigh(lengths[trained], normalization.micro_batch)
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


def _by_length_weights(lengths: Floats, sequences: int) -> Floats:
    """E[1 / the batch's sum] for each length, where batches are sorted by length as transformers sorts them.

    Its sampler shuffles the data, sorts runs of 50 batches (fewer in a small data set), and cuts them into batches.
    This is done until at least 200,000 sequences were drawn; sequences of one length share the mean of their weights.
    """
    distinct, code = np.unique(lengths, return_inverse=True)
    run = sequences * max(1, min(_RUN, len(lengths) // (4 * sequences)))
    random, code = np.random.default_rng(0), code.ravel()
    sums, counts = np.zeros(len(distinct)), np.zeros(len(distinct))
    for _ in range(max(1, -(-_DRAWN // len(lengths)))):
        order = random.permutation(len(lengths))
        for start in range(0, len(order), run):
            part = order[start : start + run]
            part = part[np.argsort(lengths[part], kind="stable")]
            starts = np.arange(0, len(part), sequences)
            inverse = np.repeat(1.0 / np.add.reduceat(lengths[part], starts), sequences)[: len(part)]
            sums += np.bincount(code[part], inverse, len(distinct))
            counts += np.bincount(code[part], minlength=len(distinct))
    return (sums / counts)[code]


def conflicting(lengths: ArrayLike, groups: ArrayLike) -> NDArray[np.bool_]:
    """Which examples share their group with an example of another length: where the tilt can act."""
    lengths = np.asarray(lengths, dtype=np.float64)
    codes = np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
    low, high = extremes(lengths, codes)
    return (high > low)[codes]


def extremes(values: Floats, codes: Codes) -> tuple[Floats, Floats]:
    """The least and the greatest value of each code, shape ``(codes,)``."""
    low, high = np.full(codes.max(initial=-1) + 1, np.inf), np.full(codes.max(initial=-1) + 1, -np.inf)
    np.minimum.at(low, codes, values)
    np.maximum.at(high, codes, values)
    return low, high


@dataclass(frozen=True)
class Lengths:
    """Facts about the length of each answer, shape ``(answers,)``; a conversation may hold several.

    Attributes:
        ids: The example an answer is in; rows of one example are in the order of its answers.
        size: T of that example, what the normalization divides by: the sum of its weights, all answers together,
            without the weight of the whole row.
        output: Trained tokens of this answer, which a reader counts.
        prompts: What comes before the answer, as a number that is equal for equal prompts; negative where there is no
            prompt, as in plain text. None where prompts are not known.
        tasks: Code of the task, from 0; None where there are none.
        cut: Whether the answer was cut off: its length is then not known. None where none was.
        task_names: Name of each code in `tasks`; None is the name of rows without a task.
        row_weights: Weight of that example's row, > 0: a row of weight 2 counts as two. None where all are 1.
    """

    ids: NDArray[np.int64]
    size: Floats
    output: Floats
    prompts: NDArray[np.int64] | None = None
    tasks: NDArray[np.int64] | None = None
    cut: NDArray[np.bool_] | None = None
    task_names: tuple[str | None, ...] = ()
    row_weights: Floats | None = None
