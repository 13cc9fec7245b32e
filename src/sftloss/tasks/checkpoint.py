"""A checkpoint of task weighting: fixed-shape tensors, read by the tasks' names and not by their order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def first_buffers(count: int, window: int) -> dict[str, Tensor]:
    """Return the module's buffers beside the strategy's state. All but ``steps`` have a row for each task."""
    number, whole = torch.float64, torch.int64
    return {
        "weights": torch.ones(count, dtype=number),
        "steps": torch.zeros((), dtype=whole),
        "pending_sums": torch.zeros(count, dtype=number),
        "pending_counts": torch.zeros(count, dtype=number),
        "observations": torch.zeros(count, dtype=whole),
        "weight_seen": torch.zeros(count, dtype=number),
        "last_step": torch.zeros(count, dtype=whole),
        "history": torch.full((count, window), torch.nan, dtype=number),
        "extra_sums": torch.zeros(count, dtype=number),
        "extra_counts": torch.zeros(count, dtype=number),
    }


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to a device in its own dtype, or in float32 where the device has no float64."""
    if device.type == "mps" and tensor.dtype == torch.float64:
        return tensor.to(device, torch.float32)
    return tensor.to(device)


def ring_values(ring: Tensor, count: int) -> Tensor:
    """Entries of one task's ring after ``count`` of them, from oldest to newest."""
    return ring[:count] if count < ring.numel() else ring.roll(-(count % ring.numel()))


def by_name(
    module: Any,
    saved: dict[str, Any],
    prefix: str,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
    square: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the checkpoint with each task's rows in the place that this module has for the task.

    Another strategy is one of `errors`. Other tasks are `unexpected` and `missing`, which torch refuses if ``strict``;
    else they are dropped, and added fresh. Buffers in `square` have a column for each task too.
    """
    extra = saved.get(f"{prefix}_extra_state")
    if extra is None:
        return saved
    theirs, ours = list(extra["task_names"]), list(module.task_names)
    if "strategy" in extra and extra["strategy"] != module.strategy.name:
        errors.append(
            f"MultiTaskLoss: the checkpoint's strategy is {extra['strategy']}, this one's {module.strategy.name}."
        )
        return saved
    unexpected.extend(f"{prefix}task {name}" for name in theirs if name not in ours)
    missing.extend(f"{prefix}task {name}" for name in ours if name not in theirs)
    result = dict(saved)
    common = [name for name in ours if name in theirs]
    here = torch.tensor([ours.index(name) for name in common], dtype=torch.int64)
    there = torch.tensor([theirs.index(name) for name in common], dtype=torch.int64)
    for name, own in nn.Module.named_buffers(module, recurse=False):
        rows = saved.get(prefix + name)
        if rows is None or not own.dim() or own.shape[0] != len(ours) or rows.shape[0] != len(theirs):
            continue
        to, of, fresh = here.to(own.device), there.to(rows.device), own.clone()
        if name in square:
            fresh[to[:, None], to] = rows[of[:, None], of].to(own)
        elif rows.shape[1:] == own.shape[1:]:
            fresh[to] = rows[of].to(own)
        else:
            continue
        result[prefix + name] = fresh
    return result
