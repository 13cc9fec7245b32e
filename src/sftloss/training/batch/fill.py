"""Equal batches on several ranks when the number of rows is not divisible: filled up with rows that train nothing.

Accelerate repeats rows in that case, which then count twice. A filler takes the place of each repeated row: a copy of
the first row with every label ignored and every weight 0. Every rank still has batches of one size, so what an
evaluation gathers is cut to the real rows as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset

from sftloss.statistics import IGNORED

_FILLER = -1
_WEIGHTS = ("token_weights", "example_weights", "loss_weights", "sequence_shares")


@dataclass(frozen=True)
class Filler:
    """Stands where a row is missing, and looks like `row`."""

    row: Any


class Filled(Dataset[Any]):
    """A data set of rows with a filler at index -1; everything else is as in `data`."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return Filler(self.data[0]) if index == _FILLER else self.data[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        real = [i for i in indices if i != _FILLER]
        batched = getattr(self.data, "__getitems__", None)
        rows = iter(batched(real) if batched is not None and real else [self.data[i] for i in real])
        return [self[i] if i == _FILLER else next(rows) for i in indices]

    def __getattr__(self, name: str) -> Any:
        if name == "data":  # asked while a worker unpickles
            raise AttributeError(name)
        return getattr(self.data, name)


class FilledBatches(BatchSampler):
    """The batches of a sampler; the last ones are filled up to `rows` rows, or a multiple of them."""

    def __init__(self, batches: BatchSampler, rows: int) -> None:
        super().__init__(batches.sampler, batches.batch_size, drop_last=False)
        self.rows = rows

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.rows) * self.rows // self.batch_size  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        missing, last = len(self) * self.batch_size, []
        for batch in super().__iter__():
            missing -= len(batch)
            if len(batch) == self.batch_size:
                yield batch
            else:
                last = batch
        while missing > 0:
            fillers = self.batch_size - len(last)
            yield [*last, *[_FILLER] * fillers]
            last, missing = [], missing - fillers


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
        if real and len(labels) != len(rows):  # all rows in one without padding, where none needs a filler
            return self.collate(real)
        batch.pop("trained_tokens", None)  # it was counted with the fillers
        untrained = torch.zeros_like(labels, dtype=torch.bool)
        untrained[-len(fillers) :] = True
        # where prompts have a weight, an ignored label alone does not leave a token out
        batch.setdefault("token_weights", torch.ones(labels.shape, device=labels.device))
        for name, nothing in (("labels", IGNORED), ("shift_labels", IGNORED), *((name, 0) for name in _WEIGHTS)):
            if batch.get(name) is not None:
                where = untrained if batch[name].dim() == untrained.dim() else untrained[:, 0]  # one a token, or a row
                batch[name] = torch.where(where, nothing, batch[name])
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
