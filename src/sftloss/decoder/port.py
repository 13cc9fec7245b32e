"""What the library needs of a causal language model, whatever framework it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class HeadForm:
    """The fixed parts of a head. Its weight is read anew on every forward pass.

    Attributes:
        scale, softcap: As in :class:`sftloss.Head`.
        mesh: The tensor-parallel mesh over which the rows of the weight are spread, or None.
    """

    scale: float = 1.0
    softcap: float | None = None
    mesh: Any = None

    @property
    def copies(self) -> int:
        """Number of ranks that hold the same tokens."""
        return 1 if self.mesh is None else int(self.mesh.size())


class ModelPass(NamedTuple):
    """One forward pass of a model without its own token loss.

    Attributes:
        hidden: Last hidden states, ``(rows, columns, width)``.
        added_loss: A scalar that the model adds to its loss (a router loss), or None.
        logits: The model's own logits, ``(rows, columns, vocab)``, where they were asked for.
        outputs: What the model returned, if the port needs it again in `result`.
    """

    hidden: Float[Tensor, "rows columns width"]
    added_loss: Tensor | None = None
    logits: Float[Tensor, "rows columns vocab"] | None = None
    outputs: Any = None


class LossOutput(NamedTuple):
    """What a plain module returns while a loss is attached and labels are given."""

    loss: Tensor
    logits: Tensor | None = None


class ModelPort(Protocol):
    """Access to the models of one framework; `model` is always the model itself, inside all wrappers.

    :class:`PlainPort` is one for any `nn.Module`; transformers' models have theirs by default.
    """

    def head_layer(self, model: nn.Module) -> nn.Module:
        """The module whose weight ``(vocab, width)`` and bias turn hidden states into logits.

        Raises:
            ModelError: If the model has none.
        """
        ...

    def head_forms(self, model: nn.Module) -> Iterable[HeadForm]:
        """The scales and softcaps that may stand after the head's product, the likeliest first. A proof chooses."""
        ...

    def vocabulary(self, model: nn.Module) -> int:
        """Number of token ids the model accepts."""
        ...

    def input_device(self, model: nn.Module) -> torch.device:
        """Device on which the model expects its input ids."""
        ...

    def takes_positions(self, model: nn.Module) -> bool:
        """Whether the model accepts position ids."""
        ...

    def adds_loss(self, model: nn.Module) -> bool:
        """Whether the model adds a loss of its own to the loss of the tokens."""
        ...

    def hidden(self, model: nn.Module, inputs: Mapping[str, Any]) -> Float[Tensor, "rows columns width"]:
        """Last hidden states, by the model's body alone."""
        ...

    def logits(self, model: nn.Module, inputs: Mapping[str, Any]) -> Float[Tensor, "rows columns vocab"]:
        """The model's own logits."""
        ...

    def connect(self, model: nn.Module) -> Callable[[], None]:
        """Prepare a model for `run`; the result undoes it. It must survive `copy.deepcopy` together with the model."""
        ...

    def run(
        self, model: nn.Module, forward: Callable[..., Any], batch: Mapping[str, Any], form: HeadForm, keep_logits: bool
    ) -> ModelPass:
        """One forward pass under the loss of somebody else.

        Args:
            model: The model, connected.
            forward: The model's own forward pass.
            batch: Keyword arguments of the model, and its labels.
            form: The head's form.
            keep_logits: Whether to make the logits too; without, the head must see no token.

        Raises:
            ModelError: If hidden states cannot be had in this model's forward pass.
        """
        ...

    def result(self, done: ModelPass, loss: Tensor, batch: Mapping[str, Any]) -> Any:
        """What the model returns: its own kind of output, with this loss."""
        ...
