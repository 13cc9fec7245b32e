"""Sums over tokens, kept on the device and divided when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import ConfigError
from sftloss.ranks import reduce_over_ranks
from sftloss.roles import ROLES
from sftloss.training.passes import Pass
from sftloss.training.watch.signal import logit_signal
from sftloss.words import percent

LOGGED_TASKS = 64
"""Tasks that have a share of their own in the log. Fixed, so that every rank sums a vector of one size."""

_MEANS = ("cross_entropy", "entropy", "token_accuracy")
_SUMS = (
    "trained_tokens",
    *("right_tokens", *(f"right_{name}" for name in _MEANS)),
    *("response_tokens", *(f"response_{name}" for name in _MEANS)),
    *("seen_tokens", "loss", "total", "spikes", "tokens_without_signal"),
    *("filtered_tokens", "filter_kept", "filter_dropped", "filter_error"),
)
_MUCH_DROPPED = 0.05  # of the mass of the gradients
_GROUPS = len(ROLES) + LOGGED_TASKS + 1
_SIZE = len(_SUMS) + 2 * _GROUPS


class TokenSums:
    """Running sums since the last read. Nothing waits for the device until they are read."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None  # those of _SUMS, then the coefficients by group, then the signal by group

    def add(self, seen: Pass, total: Tensor | None, is_spike: bool = False) -> None:
        """Add a micro-batch.

        Args:
            seen: The pass.
            total: Its own normalizer; None where batches have no common measure.
            is_spike: Whether a spike begins with it.
        """
        loss, stats = seen.loss.double(), seen.stats
        per_token = torch.stack(
            [
                torch.ones_like(stats.entropy, dtype=torch.float64),
                -stats.target_logprob.double(),
                stats.entropy.double(),
                stats.is_top1.double(),
            ]
        )
        tokens = seen.is_counted.sum().to(loss)
        of_group = [torch.where(which, per_token, 0.0).sum(1) for which in (seen.is_right, seen.is_response())]
        shares, has_signal = _shares(seen)
        is_real, mask = seen.tokens.segments >= 0, seen.batch.get("attention_mask")
        if isinstance(mask, Tensor) and mask.dim() == 2 and mask.numel() == is_real.numel():
            is_real &= mask.reshape(-1) != 0
        zero, unit = loss.new_zeros(()), loss.new_ones(())
        # batches with a normalizer each are added up by their weights, as their losses are
        weight = unit if total is None else total.to(loss)
        rest = [
            is_real.sum().to(loss),
            zero if total is None else loss * weight,
            zero if total is None else weight,
            unit if is_spike else zero,
            zero if has_signal else tokens,
            *_filtering(seen, tokens),
        ]
        new = torch.cat([tokens[None], *of_group, torch.stack(rest), (shares * weight).flatten()])
        self._sums = new if self._sums is None else self._sums + new

    def state(self) -> Tensor | None:
        """The sums since the last read, for a checkpoint."""
        return self._sums

    def restore(self, sums: Tensor | None) -> None:
        """Continue from the `state` of an earlier run.

        Raises:
            ConfigError: If another version of the library wrote it.
        """
        if sums is not None and sums.numel() != _SIZE:
            raise ConfigError(
                f"the checkpoint holds {sums.numel()} sums of the log and this version of sftloss keeps {_SIZE}; "
                "continue with the version that wrote it, or from the start."
            )
        self._sums = sums

    def read(
        self,
        *,
        device: torch.device | None = None,
        is_global: bool = False,
        group: Any = None,
        task_names: Sequence[str] = (),
    ) -> dict[str, float]:
        """The means since the last read; the sums begin anew.

        Args:
            device: Where the all-reduce runs, if this rank has counted nothing.
            is_global: Whether to add up the ranks; then every rank must call.
            group: Their process group.
            task_names: Names of the tasks, in the order of their indices.

        Returns:
            ``cross_entropy`` and ``entropy`` in nats a token, and ``token_accuracy``, over the trained tokens of
            responses, whatever a prompt token weighs (over all trained tokens where none is a response's), without
            those marked as wrong, and left out where every token is marked;
            ``trained_cross_entropy``, over all trained tokens, where tokens of other roles are trained too;
            ``trained_tokens``; ``seen_tokens``, all that the model was called with but padding (rows that fill up the
            last batches of several ranks are among them); ``loss`` over all the data, where its normalizer adds up;
            ``spikes``, the number that began, where there were any; under a tolerance ``filter_kept``,
            ``filter_dropped`` and ``filter_error``, means over the trained tokens of what ``TokenStats.filtered`` has.

            Where the batches distinguish roles or tasks, ``signal_share/<role>`` and ``signal_share/<task>``: the part
            each had of the sum of :math:`c \\lVert \\partial f / \\partial z \\rVert_1` (level S1 of the analysis); for
            an objective where that needs the logits, ``coefficient_share/...``, the part of the sum of c (level S0).
            The two counts alone where nothing was trained; empty if there was no pass.
        """
        is_empty = self._sums is None
        sums = torch.zeros(_SIZE, dtype=torch.float64, device=device) if self._sums is None else self._sums
        self._sums = None
        values = (reduce_over_ranks(sums, group=group) if is_global else sums).tolist()
        at = dict(zip(_SUMS, values, strict=False))
        out = {name: at[name] for name in ("trained_tokens", "seen_tokens")}
        if not at["trained_tokens"]:
            return {} if is_empty else out
        kind = "response" if at["response_tokens"] else "right"
        if at[f"{kind}_tokens"]:
            out = {name: at[f"{kind}_{name}"] / at[f"{kind}_tokens"] for name in _MEANS} | out
        if 0 < at["response_tokens"] < at["right_tokens"]:
            out["trained_cross_entropy"] = at["right_cross_entropy"] / at["right_tokens"]
        if at["total"]:
            out["loss"] = at["loss"] / at["total"]
        if at["spikes"]:
            out["spikes"] = at["spikes"]
        if at["filtered_tokens"]:
            out |= {name: at[name] / at["filtered_tokens"] for name in _SUMS if name.startswith("filter_")}
        coefficients, signal = values[len(_SUMS) : -_GROUPS], values[-_GROUPS:]
        name, amounts = ("coefficient", coefficients) if at["tokens_without_signal"] else ("signal", signal)
        named = list(task_names[:LOGGED_TASKS])
        tasks = [*named, *(f"task_{i}" for i in range(len(named), LOGGED_TASKS)), "other_tasks"]
        for labels, where in ((ROLES, slice(len(ROLES))), (tasks, slice(len(ROLES), None))):
            out |= _divided(f"{name}_share", labels, amounts[where], coefficients[where])
        return out


def filter_warning(metrics: Mapping[str, float], tolerance: float) -> str | None:
    """Return a sentence where the filter changed the gradients too much, by the means of a line of the log."""
    error, dropped = metrics.get("filter_error", 0.0), metrics.get("filter_dropped", 0.0)
    if error <= tolerance and dropped <= _MUCH_DROPPED:
        return None
    return (
        f"sftloss: the gradients were filtered too much: {percent(dropped)} of their mass was left out and replaced, "
        f"and they err by {error:.2g}, measured, with a tolerance of {tolerance:g}. Give a smaller tolerance, or 0."
    )


def _filtering(seen: Pass, tokens: Tensor) -> list[Tensor]:
    """Trained tokens whose gradients were filtered, and what of it is logged, times their number."""
    filtered = seen.stats.filtered
    if filtered is None:
        return [torch.zeros_like(tokens)] * 4
    return [tokens, *(value * tokens for value in (filtered.kept, filtered.dropped, filtered.error))]


def _shares(seen: Pass) -> tuple[Float[Tensor, "levels groups"], bool]:
    """Coefficients and signal by group, and whether the signal follows from the statistics."""
    sums = torch.zeros(2, _GROUPS, dtype=torch.float64, device=seen.coefficients.device)
    roles, tasks = seen.tokens.roles, seen.tokens.tasks
    if roles is None and tasks is None:
        return sums, True
    coefficients = seen.coefficients.abs().double()
    signal = logit_signal(seen.objective, seen.stats)
    by_signal = coefficients if signal is None else torch.where(seen.is_counted, coefficients * signal.double(), 0.0)
    amounts = torch.stack([coefficients, by_signal])
    if roles is not None:  # a trained token of unknown role counts for none
        index = roles.to(sums.device)
        sums.index_add_(1, index.clamp(0, len(ROLES) - 1), torch.where(index >= 0, amounts, 0.0))
    if tasks is not None:  # what is no task, and what is one too many, is counted together
        index = torch.where((tasks < 0) | (tasks > LOGGED_TASKS), LOGGED_TASKS, tasks)
        sums.index_add_(1, index.to(sums.device) + len(ROLES), amounts)
    return sums, signal is not None


def _divided(name: str, labels: Sequence[str], amounts: Sequence[float], present: Sequence[float]) -> dict[str, float]:
    """Shares of the groups that had a coefficient; nothing where there is one alone."""
    total, groups = sum(amounts), [i for i, amount in enumerate(present) if amount]
    if len(groups) < 2 or not 0 < total < float("inf"):
        return {}
    return {f"{name}/{labels[i]}": amounts[i] / total for i in groups}
