"""The few collectives of task weighting; on one process they do nothing."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Number of ranks, 1 without an initialised process group."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum over all ranks, the same bits on each: reduced in one place and sent out."""
    if world_size(group) == 1:
        return values
    # an all-reduce may add in another order on each rank (a ring does), and weights must not differ in a bit
    gathered = [torch.empty_like(values) for _ in range(world_size(group))]
    dist.all_gather(gathered, values.contiguous(), group=group)
    return torch.stack(gathered).sum(0)


def average(values: Tensor, group: dist.ProcessGroup | None = None) -> None:
    """In place the mean over all ranks, as gradients are averaged; bits may differ from rank to rank."""
    ranks = world_size(group)
    if ranks > 1:
        dist.all_reduce(values, group=group)
        values /= ranks
