"""Sums of columns by group over the units of the bootstrap, and the shares of the groups with their intervals."""

from __future__ import annotations

import numpy as np

from sftloss.numbers.bootstrap import REPLICATES, by_unit, unit_weights
from sftloss.numbers.estimate import Codes, Estimate, Floats
from sftloss.numbers.studentized import LEAST_MEMBERS, LOG, few_members, share_estimates, studentized


class GroupSums:
    """What every unit adds to every group and column.

    A row is (unit, group, values). A unit, say an example, may have many rows, in many groups. Memory is units x
    groups x columns, and :func:`sftloss.numbers.resampling_units` gives at most 4096 units.

    Attributes:
        units: Distinct ids, sorted, shape ``(units,)``.
        sums: Shape ``(units, groups, columns)``.
    """

    def __init__(self, groups: int, columns: int, *, replicates: int = REPLICATES, seed: int = 0) -> None:
        self.units = np.zeros(0, dtype=np.int64)
        self.sums = np.zeros((0, groups, columns))
        self._draws, self._seed = replicates, seed

    def add(self, units: Codes, values: Floats, groups: Codes | None = None) -> GroupSums:
        """Adds rows: ``units`` (rows,), ``values`` (rows, columns), ``groups`` (rows,), all 0 when not given."""
        names, at = np.unique(np.asarray(units, dtype=np.int64), return_inverse=True)
        _, count, columns = self.sums.shape
        place = at.ravel() * count + (0 if groups is None else np.asarray(groups))
        sums = [np.bincount(place, column, len(names) * count) for column in np.asarray(values, dtype=np.float64).T]
        flat = np.stack(sums, axis=1).astype(np.float64)
        return self.add_units(names, flat.reshape(len(names), count, columns))

    def add_units(self, units: Codes, sums: Floats) -> GroupSums:
        """Adds the sums of distinct ``units`` (units,), shape ``(units, groups, columns)``."""
        every = np.concatenate([self.units, np.asarray(units, dtype=np.int64)])
        flat = np.concatenate([self.sums, sums]).reshape(len(every), -1)
        self.units, added = by_unit(every, flat)
        self.sums = added.reshape(len(self.units), *self.sums.shape[1:])
        return self

    def pick(self, columns: list[int]) -> GroupSums:
        """Some of the columns, in the order asked for."""
        return self._with(self.sums[:, :, columns])

    def keep(self, groups: Codes) -> GroupSums:
        """Some of the groups; shares are then of these alone."""
        return self._with(self.sums[:, groups])

    def _with(self, sums: Floats) -> GroupSums:
        other = GroupSums(0, 0, replicates=self._draws, seed=self._seed)
        other.units, other.sums = self.units, sums
        return other

    @property
    def total(self) -> Floats:
        """Sums over the sample, shape ``(groups, columns)``."""
        return np.asarray(self.sums.sum(axis=0))

    @property
    def replicates(self) -> Floats:
        """Sums of each resampled data set, shape ``(replicates, groups, columns)``."""
        weights = unit_weights(self.units, self._draws, self._seed).astype(np.float64)
        return (weights @ self.sums.reshape(len(self.units), -1)).reshape(-1, *self.sums.shape[1:])

    def shares(self) -> list[list[Estimate]]:
        """Each group's part of its column, by group, then by column; 0/0 is NaN."""
        _, groups, columns = self.sums.shape
        whole = np.broadcast_to(self.sums.sum(axis=1, keepdims=True), self.sums.shape)
        part, whole = (sums.reshape(len(self.units), groups * columns) for sums in (self.sums, whole))
        cells = share_estimates(part, whole, self.units, replicates=self._draws, seed=self._seed)
        return [cells[group * columns : (group + 1) * columns] for group in range(groups)]

    def ratio_of_shares(self, group: int, top: int, bottom: int) -> Estimate:
        """A group's share of one column over its share of another."""
        wholes = self.sums.sum(axis=1)
        columns = np.stack(
            [self.sums[:, group, top], wholes[:, top], self.sums[:, group, bottom], wholes[:, bottom]], axis=1
        )
        (ratio,) = studentized(
            columns[:, None],
            lambda s: s[..., 0] / s[..., 1] / (s[..., 2] / s[..., 3]),
            self.units,
            scale=LOG,
            replicates=self._draws,
            seed=self._seed,
        )
        members = int((self.sums[:, group, bottom] > 0).sum())
        if members >= LEAST_MEMBERS or not self._draws:
            return ratio
        return Estimate(ratio.value, reason=few_members(members), n=ratio.n)
