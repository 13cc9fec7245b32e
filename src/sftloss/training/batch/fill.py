"""The last batches of several ranks, where the rows do not go round: filled up with rows of which nothing is trained.

Accelerate repeats rows there, which then count twice. Here a filler stands at the same place: a copy of the first row
whose labels are all ignored and whose weights are 0. Every rank still has batches of one size, so what an evaluation
gathers is cut to the rows there are as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset

from sftloss.statistics import IGNORED

_FILLER = -1
_WEIGHTS = ("token_weights", "example_weights", "loss_weights", "sequence_shares")


@dataclass(frozen=True)
class Filler:
    """Stands where a row is missing.

    Attributes:
        row: What it looks like.
    """

    row: Any


class Filled(Dataset[Any]):
    """A data set of rows that also knows a filler; everything else is as in `data`."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return Filler(self.data[0]) if index == _FILLER else self.data[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        there = [i for i in indices if i != _FILLER]
        batched = getattr(self.data, "__getitems__", None)
        rows = iter(batched(there) if batched is not None and there else [self.data[i] for i in there])
        return [self[i] if i == _FILLER else next(rows) for i in indices]

    def __getattr__(self, name: str) -> Any:
        if name == "data":  # asked while a worker unpickles
            raise AttributeError(name)
        return getattr(self.data, name)


class FilledBatches(BatchSampler):
    """The batches of a sampler, the last ones filled up to `rows` rows and a multiple of them."""

    def __init__(self, batches: BatchSampler, rows: int) -> None:
        super().__init__(batches.sampler, batches.batch_size, drop_last=False)
        self.rows = rows

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.rows) * self.rows // self.batch_size  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        missing = len(self) * self.batch_size
        batch: list[int] = []
        for batch in super().__iter__():
            missing -= len(batch)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        while missing > 0:
            more = self.batch_size - len(batch)
            yield [*batch, *[_FILLER] * more]
            batch, missing = [], missing - more


@dataclass(frozen=True)
class FillerCollator:
    """Makes batches as `collate` does, in which nothing of a filler is trained."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, rows: Sequence[Any]) -> Any:
        real = [row for row in rows if not isinstance(row, Filler)]
        fillers = [row.row for row in rows if isinstance(row, Filler)]
        if not fillers:
            return self.collate(real)
        batch = self.collate([*real, *fillers])  # they come last
        labels = batch.get("shift_labels") if batch.get("shift_labels") is not None else batch.get("labels")
        if labels is None:
            return batch
        if real and len(labels) != len(rows):  # laid out in one row without padding, where no row needs to be there
            return self.collate(real)
        untrained = torch.zeros_like(labels, dtype=torch.bool)
        untrained[-len(fillers) :] = True
        # where prompts have a weight, an ignored label alone does not leave a token out
        batch.setdefault("token_weights", torch.ones(labels.shape, device=labels.device))
        for name, nothing in (("labels", IGNORED), ("shift_labels", IGNORED), *((name, 0) for name in _WEIGHTS)):
            if batch.get(name) is not None:
                batch[name] = _without(batch[name], untrained, nothing)
        return batch


def fill(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The loader that Accelerate prepared over a `Filled` data set, with fillers where it would repeat rows.

    Loaders in which it repeats none, and batch samplers of another kind, stay as they are.
    """
    from accelerate.data_loader import BatchSamplerShard

    shard = loader.batch_sampler
    if not isinstance(shard, BatchSamplerShard) or type(shard.batch_sampler) is not BatchSampler:
        return loader
    if shard.num_processes == 1 or shard.drop_last or not shard.even_batches:
        return loader
    rows = shard.batch_size * (1 if shard.split_batches else shard.num_processes)
    shard.batch_sampler = FilledBatches(shard.batch_sampler, rows)
    base: Any = loader.base_dataloader  # type: ignore[attr-defined]
    base.collate_fn = FillerCollator(base.collate_fn)
    return loader


def _without(values: Tensor, untrained: Tensor, nothing: float) -> Tensor:
    """`nothing` in the rows that are not trained, for values of one a row and one a token."""
    return torch.where(untrained if values.dim() == untrained.dim() else untrained[:, 0], nothing, values)
