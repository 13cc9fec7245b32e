"""Statistics of the tasks as plain numbers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sftloss.tasks.checkpoint import ring_values
from sftloss.tasks.trend import trend


def task_statistics(module: Any) -> dict[str, dict[str, Any]]:
    """Return what :meth:`MultiTaskLoss.get_task_statistics` documents, with one copy to the host for all tasks."""
    if module.passes > 1 and not int(module.steps):
        warn_of_forgotten_step(module.passes, stacklevel=4)
    history, counts = module.history.cpu(), module.observations.tolist()
    weights, tokens, last = module.weights.cpu(), module.weight_seen.cpu(), module.last_step.tolist()
    pulls, steps = weights * tokens, int(module.steps)
    norms = module.conflicts.norm_statistics()
    return {
        name: {
            **_losses(history[k], counts[k]),
            **norms[name],
            "weight": float(weights[k]),
            "token_share": _share(tokens, k),
            "effective_share": _share(pulls, k),
            "num_updates": counts[k],
            "steps_since_seen": steps - last[k] if counts[k] else None,
        }
        for k, name in enumerate(module.task_names)
    }


def warn_of_forgotten_step(passes: int, stacklevel: int) -> None:
    """Warn about a loop that never calls step(): its weights would stay 1 for ever."""
    warnings.warn(
        f"MultiTaskLoss: {passes} forward passes without step(), so nothing has moved; call step() after "
        "optimizer.step(), or give update_freq=1.",
        stacklevel=stacklevel,
    )


def _share(amounts: Tensor, k: int) -> float | None:
    total = float(amounts.sum())
    return float(amounts[k]) / total if total > 0 else None


def _losses(ring: Tensor, count: int) -> dict[str, Any]:
    """Return the statistics of one task's ring of losses."""
    values = ring_values(ring, count)
    direction = trend(values)
    finite = values[torch.isfinite(values)]
    return {
        "current_loss": float(values[-1]) if count else None,
        "average_loss": float(finite.mean()) if finite.numel() else None,
        "loss_std": float(finite.std()) if finite.numel() > 1 else None,
        "loss_trend": direction.name,
        "trend_slope": direction.slope,
        "trend_p": direction.p,
    }


def step_info(module: Any, losses: Mapping[str, Tensor], total: Tensor) -> dict[str, Any]:
    """Return the parts of a forward pass, detached and on the device."""
    by_task = {name: losses.get(name) for name in module.task_names}
    weights = list(module.weights)
    return {
        "individual_losses": by_task,
        "task_weights": weights,
        "weighted_losses": [
            x if x is None else x * w.to(x.device) for x, w in zip(by_task.values(), weights, strict=True)
        ],
        "total_loss": total.detach(),
    }
