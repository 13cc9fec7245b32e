"""What is measured beside the training: evaluation by task and language, the best step, spikes of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sftloss.data import Example
from sftloss.ranks import gather_over_ranks, reduce_over_ranks
from sftloss.training import Loss, Pass
from sftloss.training.watch.spikes import SpikeWatch
from sftloss.weights import group_normalizers

# of right tokens (trained and not marked as wrong) and of those of responses: count, cross-entropy, top-1
_LOSS, _TOTAL, _TRAINED, _RIGHT, _RESPONSE = 0, 1, 2, 3, 6


class Groups:
    """Sums by group over the passes in evaluation mode, kept on the device; an observer of an attachment.

    Args:
        loss: The loss trained; a group's loss is normalized as the whole is, over the group alone.
        examples: The held-out examples, which `example_ids` count.
        of: ``"task"`` or ``"language"``.
    """

    def __init__(self, loss: Loss, examples: Sequence[Example], of: str) -> None:
        self.loss, self.of = loss, of
        self.names = tuple(sorted({name for e in examples if (name := getattr(e, of)) is not None}))
        index = {name: i for i, name in enumerate(self.names)}
        # the last entry answers for -1: padding and rows in which nothing is trained
        self._group = torch.tensor([*(index.get(getattr(e, of), -1) for e in examples), -1])
        self._sums: Tensor | None = None

    def __call__(self, seen: Pass) -> None:
        if seen.is_training or not self.names:
            return
        device = seen.coefficients.device
        weights, segments = seen.tokens.weights.to(device), seen.tokens.segments.to(device)
        group = self._group.to(device)[seen.batch["example_ids"].reshape(-1).to(device)]
        group = torch.where(weights != 0, group, -1)
        values = seen.objective(seen.stats).double()
        per_token = torch.stack(
            [torch.ones_like(values), -seen.stats.target_logprob.double(), seen.stats.is_top1.double()]
        )
        of_all = [weights.double() * values, torch.zeros_like(values), torch.ones_like(values)]
        parts = [torch.where(which, per_token, 0) for which in (seen.is_right, seen.is_response())]
        stacked = torch.cat([torch.stack(of_all), *parts])
        rows = torch.where((weights != 0) & (group >= 0), stacked, 0)
        sums = rows.new_zeros(len(rows), len(self.names)).index_add_(1, group.clamp(min=0), rows)
        by = self.loss.normalizer if isinstance(self.loss.normalizer, str) else "weights"
        sums[_TOTAL] = group_normalizers(weights, group, count=len(self.names), by=by, segments=segments)
        self._sums = sums if self._sums is None else self._sums + sums

    def read(self, device: torch.device) -> dict[str, dict[str, float]]:
        """Means by group name since the last call, over all ranks; every rank calls. Absent groups are left out."""
        if not self.names:
            return {}
        empty = torch.zeros(_RESPONSE + 3, len(self.names), dtype=torch.float64, device=device)
        sums, self._sums = empty if self._sums is None else self._sums, None
        means = {}
        for name, column in zip(self.names, reduce_over_ranks(sums).T.tolist(), strict=True):
            if column[_TRAINED]:
                start = _RESPONSE if column[_RESPONSE] else _RIGHT  # as the log: over the tokens of responses
                tokens, cross_entropy, top1 = column[start : start + 3]
                of_right = {"cross_entropy": cross_entropy / tokens, "token_accuracy": top1 / tokens} if tokens else {}
                means[name] = {
                    "loss": column[_LOSS] / column[_TOTAL],
                    **of_right,
                    "trained_tokens": column[_TRAINED],
                }
        return means


def tracker_metrics(means: Mapping[str, Mapping[str, Any]], of: str, prefix: str = "eval") -> dict[str, float]:
    """``{"add": {"loss": 1.0}}`` as ``{"eval_task_add_loss": 1.0}``, as trackers have it."""
    return {
        f"{prefix}_{of}_{name}_{key}": value
        for name, values in means.items()
        for key, value in values.items()
        if key != "trained_tokens"
    }


@dataclass
class Best:
    """The evaluated step with the lowest held-out loss so far; checkpoints hold it.

    Attributes:
        step: Optimizer step, 0 before the first evaluation.
        loss: Its held-out loss, of the loss trained.
        metrics: Its evaluation, as :class:`Outcome` has them.
    """

    step: int = 0
    loss: float = float("inf")
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def look(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Compare an evaluation; the earlier of two equals stays. The model before training is no candidate."""
        if step and metrics["loss"] < self.loss:
            self.step, self.loss, self.metrics = step, metrics["loss"], dict(metrics)

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


class NotedSpikes(SpikeWatch):
    """A watch that keeps a note of each spike until a line of the log is written; checkpoints hold the notes.

    Attributes:
        step: The optimizer step now under way.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self._notes: list[dict[str, Any]] = []

    def look(self, seen: Pass) -> bool:
        begins = super().look(seen)
        if begins:
            self._notes.append({"step": self.step, "spike": self.largest})
        return begins

    def take(self) -> list[dict[str, Any]]:
        """The notes of every rank, by step; every rank calls."""
        own, self._notes = self._notes, []
        return sorted(sum(gather_over_ranks(own), []), key=lambda note: note["step"])

    def state_dict(self) -> dict[str, Any]:
        return {"notes": self._notes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._notes = list(state["notes"])
