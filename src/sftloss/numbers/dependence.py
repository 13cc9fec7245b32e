r"""Whether answers have anything to do with their prompts, from the tokens alone: a permutation test.

Three kinds of dependence are looked for: answers to similar prompts are similar (the Hilbert-Schmidt independence
criterion of Gretton et al., *Measuring Statistical Dependence with Hilbert-Schmidt Norms*, 2005), with texts as sets
of tokens and with tokens by position, and answers repeat tokens of their own prompt. Rows trade their answers at
random; the largest standardized statistic of the true pairs is compared with that of the permuted ones.
"""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sftloss.numbers.estimate import Floats

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Texts = Sequence[NDArray[np.int64]]
_EDGE = 16  # tokens from the start and from the end whose position counts
_ROUNDING = 1e-9


def dependence(prompts: Texts, answers: Texts, *, permutations: int = 199, seed: int = 0) -> float:
    """The p-value of "answers are independent of prompts"; small where they depend on each other.

    A rule that shows in no token and no two tokens, such as a checksum, is not seen.

    Args:
        prompts, answers: Token ids of each row, at least one a row.
        permutations: The smallest p-value is 1 / (1 + permutations).
        seed: Of the permutations.

    Example:
        >>> random = np.random.default_rng(0)
        >>> prompts, others = (list(random.integers(0, 50, (100, 8))) for _ in range(2))
        >>> dependence(prompts, [prompt[::-1] for prompt in prompts]), dependence(prompts, others) > 0.01
        (0.005, True)
    """
    prompts, answers = _without_common_ends(prompts), _without_common_ends(answers)
    vocab = 1 + max((int(text.max()) for text in (*prompts, *answers) if len(text)), default=0)
    sides = [[_features(texts, vocab, positions) for texts in (prompts, answers)] for positions in (False, True)]
    (bag, bag_of), (placed, placed_of) = ([_kernel(side) for side in pair] for pair in sides)
    # the third power of a kernel has products of three features: both terms of a sum, say
    pairs = [(_centred(k), _centred(of)) for k, of in ((bag, bag_of), (placed, placed_of), (placed**3, placed_of))]
    shared = _centred((sides[0][0] @ sides[0][1].T).toarray())
    rows, random = np.arange(len(prompts)), np.random.default_rng(seed)
    orders = [rows, *(random.permutation(len(rows)) for _ in range(permutations))]
    statistics = np.array(
        [[*(np.vdot(k, of[np.ix_(at, at)]) for k, of in pairs), shared[rows, at].sum()] for at in orders]
    )
    spread = statistics[1:].std(axis=0)
    largest = ((statistics - statistics[1:].mean(axis=0)) / np.where(spread > 0, spread, np.inf)).max(axis=1)
    return float(1 + (largest[1:] >= largest[0] - _ROUNDING).sum()) / (1 + permutations)


def _without_common_ends(texts: Texts) -> list[NDArray[np.int64]]:
    """Texts without the tokens that all of them begin and end with, such as those of a chat template."""
    lists = [text.tolist() for text in texts]
    start = len(os.path.commonprefix(lists))
    stop = len(os.path.commonprefix([one[start:][::-1] for one in lists]))
    return [text[start : len(text) - stop] for text in texts]


def _features(texts: Texts, vocab: int, positions: bool) -> csr_matrix:
    """Tokens as a set, with `positions` also by their place; rare ones weigh more, and each row has length 1."""
    from scipy.sparse import csr_matrix, diags

    names = [np.unique(text) for text in texts]
    if positions:
        names = [np.concatenate([name, _by_place(text, vocab)]) for name, text in zip(names, texts, strict=True)]
    width = vocab * (1 + 2 * _EDGE)
    rows, columns = np.repeat(np.arange(len(texts)), [len(name) for name in names]), np.concatenate(names)
    counts = np.bincount(columns, minlength=width)
    weights = np.log(len(texts) / np.maximum(counts, 1))
    sparse = csr_matrix((weights[columns], (rows, columns)), shape=(len(texts), width))
    lengths = np.sqrt(np.asarray(sparse.multiply(sparse).sum(axis=1)).ravel())
    return (diags(1.0 / np.where(lengths > 0, lengths, 1.0)) @ sparse).tocsr()


def _by_place(text: NDArray[np.int64], vocab: int) -> NDArray[np.int64]:
    """The first and the last tokens as names of their own at each place."""
    place = vocab * np.arange(1, 1 + min(len(text), _EDGE))
    return np.concatenate([text[:_EDGE] + place, text[::-1][:_EDGE] + place + vocab * _EDGE])


def _kernel(features: csr_matrix) -> Floats:
    """Similarity of every two rows; a row's similarity with itself says nothing."""
    kernel: Floats = (features @ features.T).toarray()
    np.fill_diagonal(kernel, 0.0)
    return kernel


def _centred(kernel: Floats) -> Floats:
    return np.asarray(kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean())
