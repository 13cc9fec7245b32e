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

_LOSS, _TOTAL, _TRAINED, _RESPONSE = 0, 1, 2, 5  # of tokens, trained ones and responses: count, cross-entropy, top-1


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
        per_token = torch.stack(
            [torch.ones_like(values), -seen.stats.target_logprob.double(), seen.stats.is_top1.double()]
        )
        of_all = [weights.double() * values, torch.zeros_like(values), *per_token]
        rows = torch.where(counted, torch.stack([*of_all, *torch.where(seen.is_response(), per_token, 0)]), 0)
        sums = rows.new_zeros(len(rows), len(self.names)).index_add_(1, group.clamp(min=0), rows)
        by = self.loss.normalizer if isinstance(self.loss.normalizer, str) else "weights"
        sums[_TOTAL] = group_normalizers(weights, group, count=len(self.names), by=by, segments=segments)
        self._sums = sums if self._sums is None else self._sums + sums

    def read(self, device: torch.device) -> dict[str, dict[str, float]]:
        """Means by group name since the last call, over all ranks; every rank calls. Groups not seen are left out."""
        if not self.names:
            return {}
        empty = torch.zeros(_RESPONSE + 3, len(self.names), dtype=torch.float64, device=device)
        sums = empty if self._sums is None else self._sums
        self._sums = None
        found = {}
        for name, column in zip(self.names, reduce_over_ranks(sums).T.tolist(), strict=True):
            if column[_TRAINED]:
                start = _RESPONSE if column[_RESPONSE] else _TRAINED  # as the log: over the tokens of responses
                tokens, cross_entropy, top1 = column[start : start + 3]
                found[name] = {
                    "loss": column[_LOSS] / column[_TOTAL],
                    "cross_entropy": cross_entropy / tokens,
                    "token_accuracy": top1 / tokens,
                    "trained_tokens": column[_TRAINED],
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
