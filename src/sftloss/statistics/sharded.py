"""A head whose vocabulary is spread over ranks: each holds some rows of the weight, all hold the same tokens.

It takes three things more than a whole head. The sums of the shards are merged, by one all-gather of a few numbers a
token. The gradient in the hidden states is summed over the ranks, by one all-reduce a call. The columns of a padded
vocabulary are counted together, one number a call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sftloss.statistics.backends.rows import Sums

_COMMON = ("rate", "own", "ids")  # sums that are the same on every rank


@dataclass(frozen=True)
class Shard:
    """Which rows of the output head this rank holds.

    Attributes:
        start: Id of the first one.
        vocab: Number of rows on all ranks together.
        group: The tensor-parallel process group; None is every process. Every rank of it must give the same hidden
            states, targets and coefficients, and make the same calls. Shards may be of unequal size.

    Example:
        >>> Shard(start=0, vocab=10)
        Shard(start=0, vocab=10, group=None)
    """

    start: int
    vocab: int
    group: Any = None

    @classmethod
    def of(cls, weight: Tensor) -> Shard:
        """Return the shard that a tensor-parallel ``DTensor`` weight is, as ``ColwiseParallel`` makes it.

        Raises:
            ValueError: If it is not split by rows over one mesh dimension, or some rank holds no row.
        """
        from torch.distributed.tensor import DTensor

        if not isinstance(weight, DTensor):
            raise ValueError(f"Shard.of: weight must be a DTensor, got {type(weight).__name__}; name start and vocab.")
        (placement, *more), mesh = weight.placements, weight.device_mesh
        if more or not (placement.is_shard(0)):
            cure = "a head is split by rows, [Shard(0)], over a one-dimensional mesh"
            raise ValueError(f"Shard.of: weight is placed {tuple(weight.placements)}; {cure}.")
        vocab, size, rank = weight.shape[0], mesh.size(), mesh.get_local_rank()
        rows = -(-vocab // size)
        if rows * (size - 1) >= vocab:
            raise ValueError(f"Shard.of: {vocab} rows over {size} ranks leave one without any; use fewer ranks.")
        return cls(rows * rank, vocab, mesh.get_group())


def merge(sums: Sums, shard: Shard | None, targets: Tensor) -> Sums:
    """Return the sums over the whole vocabulary, the same bits on every rank: one all-gather.

    The targets are gathered too, to check that the ranks hold the same tokens. Where they do not, a CPU raises and the
    statistics are NaN elsewhere, because looking would wait for the device.
    """
    if shard is None:
        return sums
    mine = {name: value for name, value in vars(sums).items() if value is not None and name not in _COMMON}
    # a float32 tells ids apart up to 16 million; a row of each number, several rows of those with several a token
    rows = [value.t() if value.ndim > 1 else value[None] for value in mine.values()]
    stacked = torch.cat([targets.to(sums.m.dtype)[None], *rows])
    every = stacked.new_empty(torch.distributed.get_world_size(shard.group), *stacked.shape)
    torch.distributed.all_gather(list(every.unbind()), stacked, group=shard.group)
    ids, *columns = every.split([1, *map(len, rows)], dim=1)
    ids = ids[:, 0]
    part = {name: column[:, 0] if mine[name].ndim == 1 else column for name, column in zip(mine, columns, strict=True)}
    m = part["m"].amax(dim=0)
    drop = part["m"] - m
    shrink = drop.exp()
    differs = (ids != ids[0]).any(dim=0)
    if not ids.is_cuda and bool(differs.any()):
        raise ValueError(
            f"sftloss: the ranks of a sharded head hold different targets at token {int(differs.nonzero()[0, 0])}; "
            "give every rank of the tensor-parallel group the same batch."
        )
    out = {
        "m": torch.where(differs, float("nan"), m),
        "exp": (shrink * part["exp"]).sum(dim=0),
        "target": part["target"].amax(dim=0),
    }
    if "exp_z" in part:
        moved = torch.where(part["exp"] > 0, drop * part["exp"], 0.0)
        out["exp_z"] = (shrink * (part["exp_z"] + moved)).sum(dim=0)
    if "exp_sq" in part:
        out["exp_sq"] = (shrink.square() * part["exp_sq"]).sum(dim=0)
    if "z" in part:
        out["z"] = (part["z"] + part["count"] * drop).sum(dim=0)
        out["count"] = part["count"].sum(dim=0)
    if sums.rate is not None:
        out["tempered"] = ((drop * sums.rate).exp() * part["tempered"]).sum(dim=0)
    if sums.top is not None:
        out["top"] = part["top"].flatten(0, 1).topk(sums.top.shape[1], dim=0).values.t()
    if sums.above is not None:
        out["above"] = part["above"].sum(dim=0)
    if sums.candidates is not None:
        out["candidates"] = part["candidates"].amax(dim=0).t()
    return replace(sums, **out)


def total(partial: Tensor, shard: Shard | None) -> Tensor:
    """Sum over the shards, in place: the gradient in what all ranks hold, or a count."""
    if shard is not None:
        torch.distributed.all_reduce(partial, group=shard.group)
    return partial
