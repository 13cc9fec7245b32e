"""Evaluation by task and by language, from the passes of the evaluation itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sftloss.data import Example
from sftloss.ranks import reduce_over_ranks
from sftloss.training import Loss, Pass
from sftloss.weights import group_normalizers

_LOSS, _TOTAL, _TOKENS, _CROSS_ENTROPY, _TOP1 = range(5)


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
        counted = (weights != 0) & (group >= 0)
        values = seen.objective(seen.stats).double()
        rows = torch.stack(
            [
                torch.where(counted, weights.double() * values, 0),
                torch.zeros_like(weights, dtype=torch.float64),
                counted.double(),
                torch.where(counted, -seen.stats.target_logprob.double(), 0),
                (counted & seen.stats.is_top1).double(),
            ]
        )
        sums = rows.new_zeros(5, len(self.names)).index_add_(1, group.clamp(min=0), torch.where(counted, rows, 0))
        by = self.loss.normalizer if isinstance(self.loss.normalizer, str) else "weights"
        sums[_TOTAL] = group_normalizers(weights, group, count=len(self.names), by=by, segments=segments)
        self._sums = sums if self._sums is None else self._sums + sums

    def read(self, device: torch.device) -> dict[str, dict[str, float]]:
        """Means by group name since the last call, over all ranks; every rank calls. Groups not seen are left out."""
        if not self.names:
            return {}
        empty = torch.zeros(5, len(self.names), dtype=torch.float64, device=device)
        sums = empty if self._sums is None else self._sums
        self._sums = None
        found = {}
        for name, column in zip(self.names, reduce_over_ranks(sums).T.tolist(), strict=True):
            if column[_TOKENS]:
                found[name] = {
                    "loss": column[_LOSS] / column[_TOTAL],
                    "cross_entropy": column[_CROSS_ENTROPY] / column[_TOKENS],
                    "token_accuracy": column[_TOP1] / column[_TOKENS],
                    "trained_tokens": column[_TOKENS],
                }
        return found


def flat(found: Mapping[str, Mapping[str, Any]], of: str, prefix: str = "eval") -> dict[str, float]:
    """``{"add": {"loss": 1.0}}`` as ``{"eval_task_add_loss": 1.0}``, as trackers have it."""
    return {
        f"{prefix}_{of}_{name}_{key}": value
        for name, values in found.items()
        for key, value in values.items()
        if key != "trained_tokens"
    }
