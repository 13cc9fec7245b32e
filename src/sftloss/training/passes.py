"""One micro-batch as flat values, and one forward pass over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sftloss.roles import RESPONSE, UNKNOWN
from sftloss.statistics import Objective, TokenStats


@dataclass(frozen=True)
class Tokens:
    """A micro-batch, flat and aligned with the hidden states that predict it.

    Attributes:
        targets: ``(tokens,)``, -100 where nothing is predicted.
        weights: u of each token, ``(tokens,)``, float64; 0 where nothing is trained.
        segments: Sequence of each token, ``(tokens,)``; negative is padding.
        groups: Task of each token, -1 where it is not trained; None where no factor multiplies by task.
        extras: Further tensors, first axis ``tokens``.
        columns: Length of a row.
        roles: Role code of each target, for the log; None where neither batch nor loss distinguishes roles.
        tasks: Task of each token as the batch has it, for the log; None where the batch has none.
        shares: Share of each token in its sequence. They add up to the number of sequences wherever the batch was cut;
            None where the batch holds sequences whole.
    """

    targets: Int[Tensor, " tokens"]
    weights: Float[Tensor, " tokens"]
    segments: Int[Tensor, " tokens"]
    groups: Int[Tensor, " tokens"] | None
    extras: Mapping[str, Tensor]
    columns: int
    roles: Int[Tensor, " tokens"] | None = None
    tasks: Int[Tensor, " tokens"] | None = None
    shares: Float[Tensor, " tokens"] | None = None


class Trained:
    """How many tokens of a batch have a weight, and the shape of its labels.

    It is no tuple and no dataclass: Trainers and mixed precision make those anew from their parts.
    """

    __slots__ = ("number", "shape")

    def __init__(self, number: int, shape: Sequence[int]) -> None:
        self.number, self.shape = number, tuple(shape)

    def __repr__(self) -> str:
        return f"Trained({self.number}, {self.shape})"


@dataclass(frozen=True)
class Pass:
    """One forward pass with labels. Tensors are detached and stay on their device, one entry a token.

    Attributes:
        is_training: Whether the model was in training mode.
        stats: Token statistics, 0 at tokens with coefficient 0.
        tokens: Targets, weights u, segments and groups.
        coefficients: c of each token.
        loss: The sum of c times the objective, a scalar, before it is multiplied by the ranks.
        batch: What the model was called with.
        objective: f, from token statistics to nats a token.
    """

    is_training: bool
    stats: TokenStats
    tokens: Tokens
    coefficients: Float[Tensor, " tokens"]
    loss: Tensor
    batch: Mapping[str, Any]
    objective: Objective

    @property
    def is_counted(self) -> Bool[Tensor, " tokens"]:
        """Tokens with a coefficient, on the device of the statistics."""
        return self.coefficients != 0

    @torch.no_grad()
    def weighted_losses(self) -> Float[Tensor, " tokens"]:
        """c times the objective of each token, 0 where nothing is trained."""
        return torch.where(self.is_counted, self.objective(self.stats) * self.coefficients, 0.0)

    @property
    def is_right(self) -> Bool[Tensor, " tokens"]:
        """Counted tokens that the data do not mark as wrong, by ``is_negative`` or a coefficient below zero."""
        is_right, marks = self.coefficients > 0, self.tokens.extras.get("is_negative")
        return is_right if marks is None else is_right & (marks.to(is_right.device) <= 0.5)

    def is_response(self) -> Bool[Tensor, " tokens"]:
        """Right tokens of responses; every right token where roles are not distinguished."""
        roles = self.tokens.roles
        if roles is None:
            return self.is_right
        roles = roles.to(self.coefficients.device)
        return self.is_right & ((roles == RESPONSE) | (roles == UNKNOWN))
