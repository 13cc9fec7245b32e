"""Cosines between the tasks' gradients, step by step, under any weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sftloss.tasks import checkpoint
from sftloss.tasks.choice import checked_names
from sftloss.tasks.strategies.pieces import written
from sftloss.tasks.trend import trend


class Conflicts(nn.Module):
    r"""Running statistics of the cosines between the tasks' gradients. Two tasks conflict where theirs is negative.

    It needs the Gramian of a step, which :class:`TaskGradients` has from the one backward pass, and holds K by K
    numbers. Cosines do not change with positive weights, so any strategy can be watched, also ``static``.

    Args:
        task_names: One name a task.
        window: Steps and norms that are kept, for the trend and the mean norm.

    Example:
        >>> conflicts = Conflicts(["qa", "summaries"])
        >>> conflicts.update(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]), torch.tensor([True, True]))
        >>> conflicts.report()["conflict_rate"]
        1.0
    """

    cosine: Tensor
    cosine_sum: Tensor
    met: Tensor
    against: Tensor
    steps: Tensor
    means: Tensor
    norms: Tensor
    norms_seen: Tensor

    def __init__(self, task_names: Sequence[str], window: int = 100) -> None:
        super().__init__()
        self.task_names, self.window = checked_names(task_names), window
        count, number, whole = len(self.task_names), torch.float64, torch.int64
        self.register_buffer("cosine", torch.full((count, count), torch.nan, dtype=number))
        self.register_buffer("cosine_sum", torch.zeros(count, count, dtype=number))
        self.register_buffer("met", torch.zeros(count, count, dtype=whole))
        self.register_buffer("against", torch.zeros(count, count, dtype=whole))
        self.register_buffer("steps", torch.zeros((), dtype=whole))
        self.register_buffer("means", torch.full((window,), torch.nan, dtype=number))
        self.register_buffer("norms", torch.full((count, window), torch.nan, dtype=number))
        self.register_buffer("norms_seen", torch.zeros(count, dtype=whole))

    @torch.no_grad()
    def update(self, gramian: Float[Tensor, "tasks tasks"], present: Bool[Tensor, " tasks"]) -> None:
        """Add one step's Gramian. Absent tasks, and those with a gradient of zero or NaN, have no cosine."""
        g = gramian.detach().to(self.cosine)
        norms = g.diagonal().clamp(min=0).sqrt()
        there = present.to(g.device) & torch.isfinite(norms) & (norms > 0)
        pair = torch.outer(there, there)
        lengths = torch.where(there, norms, 1)
        cosine = torch.where(pair, (g / torch.outer(lengths, lengths)).clamp(-1, 1), 0)
        self.cosine = torch.where(pair, cosine, self.cosine)
        self.cosine_sum, self.met = self.cosine_sum + cosine, self.met + pair
        self.against = self.against + (cosine < 0)
        self.norms = torch.where(there[:, None], written(self.norms, self.norms_seen, norms), self.norms)
        self.norms_seen = self.norms_seen + there
        # of pairs of two tasks; a step with fewer has no mean cosine and takes no place
        others = pair & ~torch.eye(len(g), dtype=torch.bool, device=g.device)
        several = others.any()
        mean = torch.where(others, cosine, 0).sum() / others.sum().clamp(min=1)
        self.means = torch.where(several, written(self.means[None], self.steps[None], mean[None])[0], self.means)
        self.steps = self.steps + several

    def report(self) -> dict[str, Any]:
        """Return the statistics as plain numbers, for the log; it waits for the device.

        Returns:
            ``steps`` with two tasks or more; ``conflict_rate``, the share of their pairs that conflicted;
            ``mean_cosine``; ``cosine_trend`` and ``cosine_trend_p`` of the steps' mean cosine over the window
            (``"decreasing"``: the tasks come to pull against each other); and in ``pairs``, by ``"a, b"``, the last
            ``cosine``, ``mean_cosine``, ``conflict_rate`` and ``steps``. None where nothing is known.
        """
        i, j = torch.triu_indices(len(self.task_names), len(self.task_names), offset=1)
        columns = [x.cpu()[i, j].tolist() for x in (self.cosine, self.cosine_sum, self.met, self.against)]
        names = [f"{a}, {b}" for a, b in combinations(self.task_names, 2)]
        pairs = {
            name: {
                "cosine": cosine if met else None,
                "mean_cosine": total / met if met else None,
                "conflict_rate": against / met if met else None,
                "steps": met,
            }
            for name, cosine, total, met, against in zip(names, *columns, strict=True)
        }
        _, total, met, against = map(sum, columns)
        steps = int(self.steps)
        direction = trend(checkpoint.ring_values(self.means.cpu(), steps))
        return {
            "steps": steps,
            "conflict_rate": against / met if met else None,
            "mean_cosine": total / met if met else None,
            "cosine_trend": direction.name,
            "cosine_trend_p": direction.p,
            "pairs": pairs,
        }

    def norm_statistics(self) -> dict[str, dict[str, float | None]]:
        """Return by task the gradient's norm in the last step, its mean and its standard deviation over the window."""
        statistics = {}
        for name, ring, count in zip(self.task_names, self.norms.cpu(), self.norms_seen.tolist(), strict=True):
            values = checkpoint.ring_values(ring, count)
            statistics[name] = {
                "current_gradient": float(values[-1]) if count else None,
                "average_gradient": float(values.mean()) if count else None,
                "gradient_std": float(values.std()) if values.numel() > 1 else None,
            }
        return statistics

    def get_extra_state(self) -> dict[str, Any]:
        """Return names, so that a checkpoint is read by name."""
        return {"task_names": list(self.task_names)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Do nothing: names were used while the buffers were read."""

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors) -> None:  # type: ignore[no-untyped-def]
        square = ("cosine", "cosine_sum", "met", "against")
        state_dict = checkpoint.by_name(self, state_dict, prefix, missing, unexpected, errors, square)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
