"""A head whose vocabulary is spread over ranks: each holds some rows of the weight, all hold the same tokens.

Three things differ from a whole head, and all of them are here: the sums of the shards are merged (one all-gather of
a few numbers a token, for each chunk of tokens), the gradient in the hidden states is summed over the ranks (one
all-reduce a call), and the columns of a padded vocabulary are counted together (one number a call).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from sftloss.statistics.backends.rows import FAR, RowNumbers, Sums


@dataclass(frozen=True)
class Shard:
    """Which rows of the output head this rank holds.

    Attributes:
        start: Id of the first one.
        vocab: Number of rows on all ranks together.
        group: The tensor-parallel process group; None is every process. Shards may be of unequal size. Every rank of
            the group gives the same hidden states, targets and coefficients, and makes the same calls.

    Example:
        >>> Shard(start=0, vocab=10)
        Shard(start=0, vocab=10, group=None)
    """

    start: int
    vocab: int
    group: Any = None

    @classmethod
    def of(cls, weight: Tensor) -> Shard:
        """The shard a tensor-parallel ``DTensor`` weight is, as ``ColwiseParallel`` makes it.

        Raises:
            ValueError: If it is not split by rows over one mesh dimension, or some rank holds no row.
        """
        from torch.distributed.tensor import DTensor

        if not isinstance(weight, DTensor):
            raise ValueError(f"Shard.of: weight must be a DTensor, got {type(weight).__name__}; name start and vocab.")
        (placement, *more), mesh = weight.placements, weight.device_mesh
        if more or not (placement.is_shard(0)):
            raise ValueError(
                f"Shard.of: weight is placed {tuple(weight.placements)}; a head is split by rows, [Shard(0)], over a "
                "one-dimensional mesh."
            )
        vocab, size, rank = weight.shape[0], mesh.size(), mesh.get_local_rank()
        each = -(-vocab // size)
        if each * (size - 1) >= vocab:
            raise ValueError(f"Shard.of: {vocab} rows over {size} ranks leave one without any; use fewer ranks.")
        return cls(each * rank, vocab, mesh.get_group())

    @property
    def common(self) -> int:
        """A number of rows all ranks agree on, so that all cut the tokens into the same chunks."""
        return -(-self.vocab // torch.distributed.get_world_size(self.group))


def local_rows(tensor: Tensor | None) -> Tensor | None:
    """This rank's rows of a DTensor, whose gradient stays here; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[union-attr]


def merge(sums: Sums, shard: Shard | None, targets: Tensor) -> Sums:
    """The sums over the whole vocabulary, the same bits on every rank: one all-gather.

    Args:
        sums: This rank's.
        shard: None gives `sums` back.
        targets: ``(tokens,)``, ids over the whole vocabulary; they travel along to see that ranks hold the same tokens.

    Raises:
        ValueError: If they do not (on a CPU; elsewhere the statistics are NaN, as looking would wait for the device).
    """
    if shard is None:
        return sums
    names = [field.name for field in fields(sums) if getattr(sums, field.name) is not None]
    # a float32 tells ids apart up to 16 million
    mine = torch.stack([targets.to(sums.m.dtype), *(getattr(sums, name) for name in names)])
    world = torch.distributed.get_world_size(shard.group)
    every = mine.new_empty(world, *mine.shape)
    torch.distributed.all_gather(list(every.unbind()), mine, group=shard.group)
    ids, *columns = every.unbind(dim=1)
    part = dict(zip(names, columns, strict=True))
    m = part["m"].amax(dim=0)
    drop = part["m"] - m
    shrink = drop.exp()
    out = {"m": _same(ids, m), "exp": (shrink * part["exp"]).sum(dim=0), "target": part["target"].amax(dim=0)}
    if "exp_z" in part:
        moved = torch.where(part["exp"] > 0, drop * part["exp"], 0.0)
        out["exp_z"] = (shrink * (part["exp_z"] + moved)).sum(dim=0)
    if "exp_sq" in part:
        out["exp_sq"] = (shrink.square() * part["exp_sq"]).sum(dim=0)
    if "z" in part:
        out["z"] = (part["z"] + part["count"] * drop).sum(dim=0)
        out["count"] = part["count"].sum(dim=0)
    return replace(sums, **out)


def from_centre(rows: RowNumbers, m: Tensor) -> RowNumbers:
    """The same rows for a block or shard whose ``exp(z - m)`` is centred at another m: ``log S`` moves with m."""
    return replace(rows, m=m, log_sum=rows.log_sum + (rows.m - m).clamp(max=-FAR))


def total(partial: Tensor, shard: Shard | None) -> Tensor:
    """The sum over the shards, in place: of the gradient in what all ranks hold, or of a count."""
    if shard is not None:
        torch.distributed.all_reduce(partial, group=shard.group)
    return partial


def _same(ids: Tensor, m: Tensor) -> Tensor:
    differs = (ids != ids[0]).any(dim=0)
    if not ids.is_cuda and bool(differs.any()):
        raise ValueError(
            f"sftloss: the ranks of a sharded head hold different targets at token {int(differs.nonzero()[0, 0])}; "
            "give every rank of the tensor-parallel group the same batch."
        )
    return torch.where(differs, float("nan"), m)
