"""Ranks: this process among those of a launch, and the few collectives the library uses.

The process group of `torch.distributed` is read wherever one exists (Accelerate, DeepSpeed and the Trainer create it);
without one, every function here answers as for a single process. Before a group exists, the launcher's environment
names the rank.
"""

from __future__ import annotations

import os
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sftloss.errors import ConfigError


class LaunchedAs(NamedTuple):
    """This process among those of its launcher."""

    rank: int
    world_size: int


def launched_as() -> LaunchedAs:
    """Rank and world size from the environment that torchrun and other launchers set; ``(0, 1)`` without a launcher.

    Raises:
        ConfigError: If the environment names an impossible rank.
    """
    rank, world = _environment("RANK", 0), _environment("WORLD_SIZE", 1)
    if not 0 <= rank < world:
        raise ConfigError(f"RANK={rank} and WORLD_SIZE={world} in the environment: a rank is below the world size.")
    return LaunchedAs(rank, world)


def device_of_rank(device: str) -> str:
    """The GPU of this rank for ``cuda`` under a launcher; any other device unchanged."""
    return f"cuda:{_environment('LOCAL_RANK', 0)}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


def is_distributed() -> bool:
    """Whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def rank_of(group: Any = None) -> int:
    """Rank of this process in the group, by default in the group of all processes; 0 without one."""
    return dist.get_rank(group) if is_distributed() else 0


def world_size(group: Any = None) -> int:
    """Number of ranks, 1 without a process group."""
    return dist.get_world_size(group) if is_distributed() else 1


def sum_over_ranks(values: Tensor, group: Any = None) -> Tensor:
    """Sum over all ranks, the same bits on every rank: gathered, then added in the order of the ranks.

    For state that must not differ between ranks in a single bit; an all-reduce may add in another order on each.
    """
    if world_size(group) == 1:
        return values
    gathered = [torch.empty_like(values) for _ in range(world_size(group))]
    dist.all_gather(gathered, values.contiguous(), group=group)
    return torch.stack(gathered).sum(0)


def reduce_over_ranks(values: Tensor, op: Literal["sum", "mean", "max"] = "sum", group: Any = None) -> Tensor:
    """Sum, mean or maximum over all ranks by one all-reduce, written into `values` and returned."""
    if world_size(group) > 1:
        dist.all_reduce(values, op=dist.ReduceOp.MAX if op == "max" else dist.ReduceOp.SUM, group=group)
        if op == "mean":
            values /= world_size(group)
    return values


def gather_over_ranks(value: Any, group: Any = None) -> list[Any]:
    """The picklable `value` of every rank, in the order of the ranks."""
    if world_size(group) == 1:
        return [value]
    values: list[Any] = [None] * world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def _environment(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdigit():
        raise ConfigError(f"{name}={text[:40]!r} in the environment is not a number; unset it, or start with torchrun.")
    return int(text)
