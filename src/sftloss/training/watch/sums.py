"""Sums over tokens, kept on the device and divided last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sftloss.ranks import reduce_over_ranks
from sftloss.roles import ROLES
from sftloss.statistics import IGNORED
from sftloss.training.passes import Pass
from sftloss.training.watch.signal import logit_signal

_TOKENS, _CROSS_ENTROPY, _ENTROPY, _TOP1, _LOSS, _TOTAL, _SPIKES, _SEEN, _UNTOLD = range(9)
LOGGED_TASKS = 64
"""Tasks told apart in the log; the others are counted together. Fixed, so that every rank sums a vector of one size."""
_GROUPS = len(ROLES) + LOGGED_TASKS + 1


class TokenSums:
    """What the passes since the last reading saw. Nothing waits for the device until it is read."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None  # the nine sums, then S0 by group, then S1 by group

    def add(self, seen: Pass, total: Tensor | None, is_spike: bool = False) -> None:
        """Add a micro-batch.

        Args:
            seen: What the pass showed.
            total: Its own normalizer; None where batches have no common measure.
            is_spike: Whether a spike begins with it.
        """
        stats, value = seen.stats, seen.loss
        counted = (seen.tokens.targets.to(value.device) != IGNORED) & (seen.coefficients != 0)
        nothing = value.new_zeros(())
        shares, is_told = _shares(seen, counted)
        if total is not None:  # batches with a normalizer each are added up by their weights, as their losses are
            shares = shares * total
        parts = (
            counted.sum(),
            -stats.target_logprob.sum(dtype=torch.float64),
            stats.entropy.sum(dtype=torch.float64),
            (stats.is_top1 & counted).sum(),
            nothing if total is None else value.double() * total,
            nothing if total is None else total,
            nothing + 1 if is_spike else nothing,
            _real(seen).sum(),
            nothing if is_told else counted.sum(),
        )
        new = torch.stack([torch.as_tensor(part, device=value.device).double() for part in parts])
        new = torch.cat([new, shares])
        self._sums = new if self._sums is None else self._sums + new

    def state(self) -> Tensor | None:
        """The sums since the last reading, for a checkpoint."""
        return self._sums

    def restore(self, sums: Tensor | None) -> None:
        """Go on from the `state` of an earlier run."""
        self._sums = sums

    def read(
        self,
        *,
        device: torch.device | None = None,
        is_global: bool = False,
        group: Any = None,
        task_names: Sequence[str] = (),
    ) -> dict[str, float]:
        """The means since the last reading, and a new start.

        Args:
            device: Where the all-reduce runs, where this rank has counted nothing.
            is_global: Whether to add up the ranks; then every rank must call.
            group: Their process group.
            task_names: What to call the tasks, in the order of their indices.

        Returns:
            ``cross_entropy`` and ``entropy`` in nats a trained token, ``token_accuracy``, ``trained_tokens``,
            ``seen_tokens`` (all that the model was given but padding; rows that fill up the last batches of several
            ranks are among them), and ``loss`` over all the data seen, where its normalizer adds up, and ``spikes``,
            how many began, where any did. Where the batches tell more than one role
            or task apart, ``signal_share/<role>`` and ``signal_share/<task>``: the part of the sum of
            :math:`c \\lVert \\partial f / \\partial z \\rVert_1` (level S1 of the analysis) that each had; for an
            objective where that needs the logits, ``coefficient_share/...``, the part of the sum of c (level S0).
            The two counts alone where nothing in the passes was trained; empty if there was no pass.
        """
        size = _UNTOLD + 1 + 2 * _GROUPS
        is_empty = self._sums is None
        sums = torch.zeros(size, dtype=torch.float64, device=device) if self._sums is None else self._sums
        self._sums = None
        values = (reduce_over_ranks(sums, group=group) if is_global else sums).tolist()
        tokens = values[_TOKENS]
        if not tokens:
            return {} if is_empty else {"trained_tokens": 0.0, "seen_tokens": values[_SEEN]}
        out = {
            "cross_entropy": values[_CROSS_ENTROPY] / tokens,
            "entropy": values[_ENTROPY] / tokens,
            "token_accuracy": values[_TOP1] / tokens,
            "trained_tokens": tokens,
            "seen_tokens": values[_SEEN],
        }
        if values[_TOTAL]:
            out["loss"] = values[_LOSS] / values[_TOTAL]
        if values[_SPIKES]:
            out["spikes"] = values[_SPIKES]
        start = _UNTOLD + 1 + (0 if values[_UNTOLD] else _GROUPS)
        name = "coefficient_share" if values[_UNTOLD] else "signal_share"
        told = values[start : start + _GROUPS]
        present = values[_UNTOLD + 1 : _UNTOLD + 1 + _GROUPS]
        for labels, where in ((ROLES, slice(len(ROLES))), (_task_labels(task_names), slice(len(ROLES), None))):
            out |= _divided(name, labels, told[where], present[where])
        return out


def _real(seen: Pass) -> Tensor:
    """Which positions are no padding."""
    is_real, mask = seen.tokens.segments >= 0, seen.batch.get("attention_mask")
    if mask is None or mask.dim() != 2 or mask.numel() != is_real.numel():
        return is_real
    return is_real & (mask.reshape(-1) != 0)


def _shares(seen: Pass, counted: Tensor) -> tuple[Tensor, bool]:
    """S0 by group, then S1 by group, and whether S1 can be told from the statistics."""
    device = counted.device
    sums = torch.zeros(2, _GROUPS, dtype=torch.float64, device=device)
    roles, tasks = seen.tokens.roles, seen.tokens.tasks
    if roles is None and tasks is None:
        return sums.flatten(), True
    nominal = torch.where(counted, seen.coefficients.abs().double(), 0.0)
    signal = logit_signal(seen.objective, seen.stats)
    told = nominal if signal is None else torch.where(counted, nominal * signal.double(), 0.0)
    amounts = torch.stack([nominal, told])
    if roles is not None:
        sums.index_add_(1, roles.to(device).clamp(0, len(ROLES) - 1), amounts)
    if tasks is not None:
        sums.index_add_(1, tasks.to(device).clamp(0, LOGGED_TASKS) + len(ROLES), amounts)
    return sums.flatten(), signal is not None


def _divided(name: str, labels: Sequence[str], told: Sequence[float], present: Sequence[float]) -> dict[str, float]:
    """Shares of the groups that had a coefficient; nothing where there is one alone, whose share says nothing."""
    total, seen = sum(told), [i for i, amount in enumerate(present) if amount]
    if len(seen) < 2 or not 0 < total < float("inf"):
        return {}
    return {f"{name}/{labels[i]}": told[i] / total for i in seen}


def _task_labels(names: Sequence[str]) -> list[str]:
    given = list(names)[:LOGGED_TASKS]
    return [*given, *(f"task_{i}" for i in range(len(given), LOGGED_TASKS)), "other_tasks"]
