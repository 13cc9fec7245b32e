"""What the bootstrap resamples, and how often each replicate draws it.

The bootstrap resamples *examples*, never tokens, and examples that share their first prompt together. A replicate gives
each unit an independent Poisson(1) count (Chamandy et al., *Estimating uncertainty for massive data streams*, 2012).
The count is a hash of (seed, unit, replicate). Two groupings of the same examples therefore see the same resampled
data, and neither row order nor chunking changes a draw.

Above 4096 units, they are thrown by a hash into 4096 larger ones, and those are resampled: the bootstrap
of ratios of sums has the same limit, its time and memory no longer grow, and an interval's width is off by about 1 %.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sftloss.numbers.estimate import Floats

REPLICATES = 1000
UNITS = 4096  # resampled at most
_POISSON = 64  # units from which on their counts are independent
_LANES = 4  # 16-bit draws in one 64-bit hash


def _poisson_table() -> NDArray[np.uint8]:
    """Poisson(1) quantiles at 65,536 midpoints: mean and variance are 1 to 1e-4."""
    cumulative = np.cumsum([math.exp(-1.0) / math.factorial(k) for k in range(12)])
    return np.searchsorted(cumulative, (np.arange(1 << 16) + 0.5) / (1 << 16)).astype(np.uint8)


_TABLE = _poisson_table()


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al., 2014): a bijection whose output bits behave as random."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def poisson_weights(ids: NDArray[np.int64], replicates: int, seed: int = 0) -> NDArray[np.uint8]:
    """Bootstrap counts, shape ``(replicates, len(ids))``: a function of seed, id and replicate alone."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    offset = np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % (1 << 64))
    blocks = -(-replicates // _LANES)
    state = _mix(np.ascontiguousarray(ids).astype(np.int64).view(np.uint64) * golden + offset)
    steps = _mix(np.arange(1, blocks + 1, dtype=np.uint64) * golden)
    bits = _mix(state[None, :] ^ steps[:, None])
    lanes = bits[:, :, None].view(np.uint16)  # (blocks, ids, lanes)
    return _TABLE[lanes].transpose(0, 2, 1).reshape(blocks * _LANES, -1)[:replicates]


def resampling_units(ids: NDArray[np.int64], prompts: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """What each example is resampled with.

    Examples of one prompt are no independent draws: they share a unit, however few prompts there are. An example
    without a prompt (negative) is its own. Above `UNITS` units, they are thrown by a hash into so many.

    Args:
        ids: Of the examples, distinct, ``(examples,)``.
        prompts: Their first prompts; None where prompts are not known.
    """
    units = np.ascontiguousarray(ids, dtype=np.int64)
    if prompts is not None:
        units = np.where(prompts < 0, -1 - units, prompts)
    if len(units) <= UNITS or len(np.unique(units)) <= UNITS:
        return units
    mixed = _mix(units.view(np.uint64))
    return (mixed % np.uint64(UNITS)).astype(np.int64)


def snap(values: Floats, bound: float) -> Floats:
    """Values on a grid on which sums of absolute value up to `bound` are exact, in whatever order they are formed.

    The grid is 2^-53 of `bound`, to a factor of two: what is lost is lost to the rounding of any float64 sum.
    """
    if not bound > 0:
        return values
    grid = 2.0 ** (math.ceil(math.log2(bound)) - 53)
    return np.rint(values / grid) * grid


@lru_cache(maxsize=8)
def _weights(units: bytes, replicates: int, seed: int) -> NDArray[np.uint8]:
    ids = np.frombuffer(units, dtype=np.int64)
    if len(ids) >= _POISSON:
        return poisson_weights(ids, replicates, seed)
    random = np.random.default_rng([seed, len(ids)])
    return random.multinomial(len(ids), np.full(len(ids), 1.0 / len(ids)), replicates).astype(np.uint8)


def unit_weights(units: NDArray[np.int64], replicates: int, seed: int = 0) -> NDArray[np.uint8]:
    """How often each replicate draws each of the distinct units, ``(replicates, units)``.

    Of few units every replicate draws exactly as many as there are: by independent counts, one replicate in 150 of
    five units would be empty. Every table of a report asks for the same few sets of units, so the draws are kept.
    """
    return _weights(np.ascontiguousarray(units, dtype=np.int64).tobytes(), replicates, seed)


def by_unit(units: NDArray[np.int64], values: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The distinct units, sorted, and the sums of the rows ``(rows, columns)`` of each."""
    names, at = np.unique(np.asarray(units, dtype=np.int64), return_inverse=True)
    sums = [np.bincount(at.ravel(), column, len(names)) for column in np.asarray(values, dtype=np.float64).T]
    return names, np.stack(sums, axis=1).astype(np.float64)
