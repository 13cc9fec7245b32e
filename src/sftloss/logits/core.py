"""Shared by the modules: logits to one loss per token, and token losses with weights to one number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sftloss.objectives import cross_entropy, label_smoothing
from sftloss.statistics import IGNORED, TokenStats, from_logits
from sftloss.weights import NORMALIZERS, coefficients, normalizer

REDUCTIONS = ("mean", "sum", "none")
Total = Tensor | float


@dataclass(frozen=True)
class TokenObjective:
    """An objective and the names of the statistics it reads; no other statistic is computed."""

    function: Callable[[TokenStats], Tensor]
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Reduction:
    """The step from token losses to the module's result. ``name`` is the module's name, for error messages."""

    name: str
    how: str
    normalizer: str

    def __post_init__(self) -> None:
        if self.how not in REDUCTIONS:
            raise ValueError(f"{self.name}: reduction must be one of {', '.join(REDUCTIONS)}, got {self.how!r}.")
        if self.normalizer not in NORMALIZERS or self.normalizer == "constant":
            raise ValueError(
                f"{self.name}: normalizer must be weights, sequences or tokens, got {self.normalizer!r}. "
                "For a constant give total=."
            )

    def __call__(self, losses: Tensor, weights: Tensor, segments: Tensor | None, total: Total | None) -> Tensor:
        """Reduce ``(rows, columns)`` losses to one loss per row, to their sum, or to the sum divided by ``total``."""
        if self.how != "mean" and total is not None:
            raise ValueError(
                f'{self.name}: total is used only with reduction="mean", got reduction="{self.how}". Omit it.'
            )
        weights = weights.to(losses.dtype)
        if self.how == "none":
            if segments is not None:
                raise ValueError(
                    f'{self.name}: reduction="none" returns one loss per row, but packed rows hold several sequences.'
                )
            return (weights * losses).sum(dim=-1)
        if self.how == "mean":
            weights = coefficients(weights, self.total(weights, segments) if total is None else total)
        return (weights * losses).sum()

    def total(self, weights: Tensor, segments: Tensor | None) -> Tensor:
        """Return this micro-batch's share of the step's normalizer."""
        return normalizer(weights.reshape(-1), flat_segments(weights, segments), by=self.normalizer)


def ce_objective(smoothing: float) -> TokenObjective:
    """Return cross-entropy, with label smoothing if ``smoothing`` is not 0."""
    if smoothing == 0:
        return TokenObjective(cross_entropy, ("target_logprob",))
    smoothed = partial(label_smoothing, epsilon=smoothing)
    return TokenObjective(smoothed, ("target_logprob", "mean_logprob"))


def per_token_losses(
    logits: Float[Tensor, "*rows vocab"],
    targets: Int[Tensor, "*rows"],
    kept: Bool[Tensor, "*rows"],
    objective: TokenObjective,
) -> Float[Tensor, "*rows"]:
    """Return one loss per token in float32 or better.

    Where ``kept`` is False the loss and its gradient are 0, whatever the logits hold (NaN included).
    """
    flat = torch.where(kept, targets, IGNORED).reshape(-1)
    # reshape, not view: the shifted slice logits[:, :-1] is not contiguous
    stats = from_logits(logits.reshape(-1, logits.shape[-1]), flat, fields=objective.fields)
    return torch.where(flat != IGNORED, objective.function(stats), 0).reshape(targets.shape)


def check_logits(name: str, logits: Tensor, targets: Tensor) -> None:
    """Check that the shapes fit; the error message names the usual cause, a missing shift."""
    if logits.dim() != 3:
        raise ValueError(f"{name}: logits must be (batch, tokens, vocab), got shape {tuple(logits.shape)}.")
    if logits.shape[:2] != targets.shape:
        raise ValueError(
            f"{name}: logits have shape {tuple(logits.shape)}, targets {tuple(targets.shape)}. "
            "Shift first: logits[:, :-1] predicts input_ids[:, 1:]."
        )


def trained_mask(
    name: str, targets: Int[Tensor, "batch tokens"], ignore_index: int, lengths: Int[Tensor, " batch"] | None = None
) -> Bool[Tensor, "batch tokens"]:
    """Return True where a target is trained: it is not ignored and lies within its row's length, if given.

    Lengths narrow the label mask. They never replace it: an ignored prompt token stays ignored.
    """
    mask = (targets != ignore_index) & (targets != IGNORED)
    if lengths is None:
        return mask
    if lengths.shape != targets.shape[:1]:
        raise ValueError(
            f"{name}: lengths must have shape {tuple(targets.shape[:1])}, one for each row, got {tuple(lengths.shape)}."
        )
    return mask & (torch.arange(targets.shape[1], device=targets.device) < lengths.to(targets.device)[:, None])


def flat_segments(like: Tensor, segments: Int[Tensor, "batch tokens"] | None) -> Int[Tensor, " tokens"]:
    """Return the sequence id of each token: its entry in ``segments``, or its row where ``segments`` is None."""
    if segments is None:
        rows = torch.arange(like.shape[0], device=like.device)
        return rows[:, None].expand(like.shape).reshape(-1)
    if segments.shape != like.shape:
        raise ValueError(f"segments must have the shape of targets, {tuple(like.shape)}, got {tuple(segments.shape)}.")
    return segments.reshape(-1)
