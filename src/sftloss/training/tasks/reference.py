"""A reference model that is not trained: its log-probability of the tokens another model is trained on."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.decoder import Decoder, open_decoder, port_of
from sftloss.errors import ConfigError
from sftloss.statistics import IGNORED, Plan, from_logits, token_statistics
from sftloss.training.passes import Pass

_PLAN = Plan(fields=("target_logprob",))


class Reference:
    """Log-probabilities under a model that is not trained, by one more forward pass for each batch.

    Args:
        model: A causal language model of transformers with the same vocabulary. It is put into evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self._decoder: Decoder | None = None

    def check(self, vocabulary: int) -> None:
        """Refuse a trained model with another vocabulary."""
        own = port_of(self.model).vocabulary(self.model)
        if own != vocabulary:
            raise ConfigError(
                f"the reference model has {own} tokens, the trained one {vocabulary}; both need one vocabulary",
                option="tasks",
            )

    @torch.no_grad()
    def logprob(self, seen: Pass) -> Float[Tensor, " tokens"]:
        """Log-probability of each target of a pass, 0 where the token is not trained."""
        device = seen.coefficients.device
        self.model.to(device)
        self._decoder = self._decoder or open_decoder(self.model)
        inputs: list[Any] = [seen.batch.get(name) for name in ("input_ids", "position_ids", "attention_mask")]
        targets = torch.where(seen.is_counted, seen.tokens.targets.to(device), IGNORED)
        if self._decoder.head is None:
            stats = from_logits(self._decoder.logits(*inputs).flatten(0, 1), targets)
        else:
            hidden = self._decoder.hidden(*inputs).flatten(0, 1)
            stats = token_statistics(hidden, self._decoder.head, targets, plan=_PLAN)
        return stats.target_logprob.to(device)
