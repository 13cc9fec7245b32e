"""What a forward pass has seen, for those who watch: evaluation by group, adaptive task weights, spikes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sftloss.statistics import TokenStats
from sftloss.training.batch.tokens import Tokens


@dataclass(frozen=True)
class Pass:
    """One forward pass with labels. Tensors are detached and stay on their device, one entry a token.

    Attributes:
        is_training: Whether the model was in training mode.
        stats: Token statistics, 0 at tokens with coefficient 0.
        tokens: Targets, weights u, segments and groups.
        coefficients: c of each token.
        loss: Their sum with the objective, a scalar, before it is multiplied by the ranks.
        batch: What the model was given.
    """

    is_training: bool
    stats: TokenStats
    tokens: Tokens
    coefficients: Tensor
    loss: Tensor
    batch: Mapping[str, Any]
