"""Several processes, one report: they join, each measures its share, and they meet before one of them describes.

Only the launch needs a network (gloo, TCP); what was measured passes through the output folder. A rank that dies
closes its connections, so the others learn of it at once, and a slow rank is waited for as long as it lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sftloss.errors import ConfigError, MachineError, mention, quoted

_LIFE = timedelta(days=30)


@contextmanager
def meeting(shard: tuple[int, int], patience: float) -> Iterator[Callable[[], None]]:
    """Join the other ranks; what is given back is called where all must have come before any goes on.

    Args:
        shard: ``(rank, world size)``. A world of one meets nobody.
        patience: Seconds in which all ranks must have joined; their models may load at different speeds.

    Raises:
        ConfigError: If the environment is not that of a launcher.
        MachineError: If a rank does not join in time, or ends before a meeting.
    """
    rank, world = shard
    if world == 1:
        yield lambda: None
        return
    import torch.distributed as dist

    from sftloss.ranks import is_distributed

    is_ours = not is_distributed()
    group = _join(shard, timedelta(seconds=patience)) if is_ours else dist.new_group(backend="gloo")

    def meet() -> None:
        try:
            dist.monitored_barrier(group, timeout=_LIFE)
        except RuntimeError:
            raise MachineError(
                f"rank {rank} of {world}: another rank ended before its part was done, and its own message names the "
                "reason",
                cure=f"what is measured stays, start all ranks again with {mention('resume')}",
            ) from None

    try:
        yield meet
    finally:
        if is_ours:
            dist.destroy_process_group()


def _join(shard: tuple[int, int], patience: timedelta) -> Any:
    import torch.distributed as dist

    rank, world = shard
    try:
        dist.init_process_group("gloo", rank=rank, world_size=world, timeout=patience)
    except (RuntimeError, ValueError) as error:
        # ValueError: no MASTER_ADDR, so no launcher started this process
        kind = ConfigError if isinstance(error, ValueError) else MachineError
        raise kind(
            f"rank {rank} of {world}: not all ranks came within {patience.total_seconds():g} s, so a shard of the data "
            "is missing",
            cure=f"start every rank, as torchrun does ({quoted(error, 120)})",
        ) from None
    return dist.group.WORLD
