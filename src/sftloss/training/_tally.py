"""Sums over tokens, kept on the device and divided last."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sftloss.statistics import TokenStats

_TOKENS, _CROSS_ENTROPY, _ENTROPY, _TOP1, _LOSS, _TOTAL = range(6)


class Tally:
    """What the passes since the last reading saw. Nothing waits for the device until it is read."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, stats: TokenStats, counted: Tensor, loss: Tensor, total: Tensor | None) -> None:
        """Add a micro-batch.

        Args:
            stats: Its statistics, 0 at tokens not counted.
            counted: Which tokens are trained.
            loss: Its loss, divided by `total`.
            total: Its own normaliser; None where batches have no common measure.
        """
        nothing = loss.new_zeros(())
        parts = (
            counted.sum(),
            -stats.target_logprob.sum(dtype=torch.float64),
            stats.entropy.sum(dtype=torch.float64),
            (stats.is_top1 & counted).sum(),
            nothing if total is None else loss.detach().double() * total,
            nothing if total is None else total,
        )
        new = torch.stack([torch.as_tensor(part, device=loss.device).double() for part in parts])
        self._sums = new if self._sums is None else self._sums + new

    def read(
        self, *, device: torch.device | None = None, is_global: bool = False, group: Any = None
    ) -> dict[str, float]:
        """The means since the last reading, and a new start.

        Args:
            device: Where the all-reduce runs, where this rank has counted nothing.
            is_global: Whether to add up the ranks; then every rank must call.
            group: Their process group.

        Returns:
            ``cross_entropy`` and ``entropy`` in nats a trained token, ``token_accuracy``, ``trained_tokens``, and
            ``loss`` over all the data seen, where its normaliser adds up. Empty if nothing was trained.
        """
        sums = torch.zeros(6, dtype=torch.float64, device=device) if self._sums is None else self._sums
        self._sums = None
        if is_global and torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums, group=group)
        values = sums.tolist()
        tokens = values[_TOKENS]
        if not tokens:
            return {}
        out = {
            "cross_entropy": values[_CROSS_ENTROPY] / tokens,
            "entropy": values[_ENTROPY] / tokens,
            "token_accuracy": values[_TOP1] / tokens,
            "trained_tokens": tokens,
        }
        if values[_TOTAL]:
            out["loss"] = values[_LOSS] / values[_TOTAL]
        return out
