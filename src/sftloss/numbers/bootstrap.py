"""Intervals for group sums: one streamed accumulator, the same Poisson replicates for every grouping.

The bootstrap resamples *examples*, never tokens, and examples that share their first prompt together. A replicate gives
each unit an independent Poisson(1) count, so sums can be accumulated in one pass in any order: memory is replicates x
groups x columns whatever the data's size (Chamandy et al., *Estimating uncertainty for massive data streams*, 2012).
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

from sftloss.document import Interval
from sftloss.numbers.estimate import Floats

REPLICATES = 1000
_ROWS = 1024  # weights of a chunk: 1000 x 1024 doubles, 8 MB
UNITS = 4096  # resampled at most
FEW = 30  # prompts, below which their resampling says little
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

    Examples of one prompt are no independent draws: they share a unit, where there are at least 30 units to draw from.
    An example without a prompt (negative) is its own. Above `UNITS` units, they are thrown by a hash into so many.

    Args:
        ids: Of the examples, distinct, ``(examples,)``.
        prompts: Their first prompts; None where prompts are not known.
    """
    units = np.ascontiguousarray(ids, dtype=np.int64)
    if prompts is not None:
        shared = np.where(prompts < 0, -1 - units, prompts)
        units = shared if len(np.unique(shared)) >= FEW else units
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
    """Counts of one block of units; every table of a report asks for the same few blocks."""
    return poisson_weights(np.frombuffer(units, dtype=np.int64), replicates, seed)


class GroupSums:
    """Sums of columns by group over the sample and over every bootstrap replicate.

    A row is (unit, group, values). A unit, say an example, may have many rows, in many groups: all get its count.

    Attributes:
        total: Sums over the sample, shape ``(groups, columns)``.
        replicates: Sums of each resampled data set, shape ``(replicates, groups, columns)``.
    """

    def __init__(self, groups: int, columns: int, *, replicates: int = REPLICATES, seed: int = 0) -> None:
        self.total = np.zeros((groups, columns))
        self.replicates = np.zeros((replicates, groups, columns))
        self._seed = seed

    def add(self, units: NDArray[np.int64], values: Floats, groups: NDArray[np.int64] | None = None) -> GroupSums:
        """Adds rows: ``units`` (rows,), ``values`` (rows, columns), ``groups`` (rows,), all 0 when not given."""
        values = np.asarray(values, dtype=np.float64)
        names, at = np.unique(np.asarray(units, dtype=np.int64), return_inverse=True)
        count, columns = self.total.shape
        place = at.ravel() * count + (0 if groups is None else np.asarray(groups))
        sums = [np.bincount(place, values[:, c], len(names) * count) for c in range(columns)]
        stacked = np.stack(sums, axis=1, dtype=np.float64)
        return self.add_units(names, stacked.reshape(len(names), count, columns))

    def add_units(self, units: NDArray[np.int64], sums: Floats) -> GroupSums:
        """Adds the sums of distinct ``units`` (units,), shape ``(units, groups, columns)``."""
        self.total += sums.sum(axis=0)
        flat, count = sums.reshape(len(units), -1), len(self.replicates)
        for start in range(0, len(units) if count else 0, _ROWS):
            rows = slice(start, start + _ROWS)
            block = np.ascontiguousarray(units[rows], dtype=np.int64).tobytes()
            weights = _weights(block, count, self._seed).astype(np.float64)
            self.replicates += (weights @ flat[rows]).reshape(self.replicates.shape)
        return self

    def pick(self, columns: list[int]) -> GroupSums:
        """Some of the columns, in the order asked for."""
        picked = GroupSums(0, 0, replicates=0, seed=self._seed)
        picked.total, picked.replicates = self.total[:, columns], self.replicates[:, :, columns]
        return picked

    def shares(self) -> tuple[Floats, Floats]:
        """Each group's part of its column: (groups, columns) and (replicates, groups, columns); 0/0 is NaN."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (
                self.total / self.total.sum(axis=0, keepdims=True),
                self.replicates / self.replicates.sum(axis=1, keepdims=True),
            )


def interval(replicates: Floats, *, level: float = 0.95) -> Interval | None:
    """Percentile interval of one number's replicates (replicates,), or None where too few are defined.

    Replicates in which the number is undefined are left out; more than one in twenty of them means that the data
    cannot say.
    """
    defined = replicates[np.isfinite(replicates)]
    if len(defined) < 20 or len(defined) < 0.95 * len(replicates):
        return None
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(defined, (tail, 1.0 - tail))
    return Interval(float(low), float(high), level)


def ratio_interval(top: Floats, bottom: Floats) -> Interval | None:
    """Interval of a ratio of sums from their replicates."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return interval(top / bottom)
