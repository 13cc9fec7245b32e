"""A model that is not trained, beside the one that is: how likely does it find the same tokens?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import ConfigError
from sftloss.training.watch.passes import Pass

if TYPE_CHECKING:
    from sftloss.training.loss import Loss


class Reference:
    """Gives log-probabilities of the tokens that another model is trained on, by one forward pass more.

    Args:
        model: A causal language model of transformers with the same vocabulary. It is put into evaluation mode, and
            from :meth:`bind` on has a loss attached.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self._found: Tensor | None = None

    def bind(self, model: Any, loss: Loss) -> None:
        """Lay tokens out as this loss does for this model.

        Raises:
            ConfigError: If the vocabularies differ.
        """
        from sftloss.training.attach import attach, attachment_of

        ours, theirs = (m.get_input_embeddings().weight.shape[0] for m in (model, self.model))
        if ours != theirs:
            raise ConfigError(
                f"tasks: the reference model has {theirs} tokens, the trained one {ours}; both must be one."
            )
        before = attachment_of(self.model)
        if before is not None:
            before.detach()
        # weights of tokens as there, so that the same are looked at; the objective does not matter
        attachment = attach(self.model, replace(loss, objective="cross_entropy", tasks=None, extras=()))
        attachment.observers.append(self._see)

    def _see(self, seen: Pass) -> None:
        self._found = seen.stats.target_logprob

    @torch.no_grad()
    def logprob(self, batch: Mapping[str, Any], device: torch.device) -> Float[Tensor, " tokens"]:
        """Of each target of the batch, as a :class:`Pass` has them; 0 where the token is not trained."""
        self.model.to(device)
        given = {name: value for name, value in batch.items() if name not in ("num_items_in_batch", "tasks")}
        self.model(**{**given, "output_logits": False})
        assert self._found is not None
        found, self._found = self._found, None
        return found
