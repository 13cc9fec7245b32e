"""What the library needs of a causal language model, whatever framework it comes from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sftloss.errors import ModelError


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
        hidden: Last hidden states.
        added_loss: A scalar that the model adds to its loss (a router loss), or None.
        logits: The model's own logits, where they were asked for.
        outputs: What the model returned, if `result` needs it.
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
        """The module whose weight ``(vocab, width)`` and bias turn hidden states into logits, or a ModelError."""

    def head_forms(self, model: nn.Module) -> Iterable[HeadForm]:
        """The scales and softcaps that may follow the head's product, the likeliest first. A proof chooses."""

    def vocabulary(self, model: nn.Module) -> int:
        """Number of token ids the model accepts."""

    def input_device(self, model: nn.Module) -> torch.device:
        """Device on which the model expects its token ids."""

    def takes_positions(self, model: nn.Module) -> bool:
        """Whether the model accepts position ids."""

    def adds_loss(self, model: nn.Module) -> bool:
        """Whether the model adds a loss of its own to the loss of the tokens."""

    def hidden(self, model: nn.Module, inputs: Mapping[str, Any]) -> Float[Tensor, "rows columns width"]:
        """Last hidden states, by the model's body alone."""

    def logits(self, model: nn.Module, inputs: Mapping[str, Any]) -> Float[Tensor, "rows columns vocab"]:
        """The model's own logits."""

    def connect(self, model: nn.Module) -> Callable[[], None]:
        """Prepare a model for `run`; the result undoes it, also in a deep copy made together with the model."""

    def run(
        self, model: nn.Module, forward: Callable[..., Any], batch: Mapping[str, Any], form: HeadForm, keep_logits: bool
    ) -> ModelPass:
        """One forward pass under a loss that is not the model's.

        Args:
            model: The model, connected.
            forward: The model's own forward pass.
            batch: Keyword arguments of the model, and its labels.
            form: The head's form.
            keep_logits: Whether to make the logits too; without, the head must see no token.

        Raises:
            ModelError: If this model's forward pass gives no access to its hidden states.
        """

    def result(self, done: ModelPass, loss: Tensor, batch: Mapping[str, Any]) -> Any:
        """The model's own kind of output, with this loss."""


@dataclass(frozen=True)
class PlainPort:
    """How to reach the hidden states and the head of a decoder that is a plain `nn.Module`.

    Attributes:
        hidden_of: ``hidden_of(model, batch)`` returns the last hidden states ``(rows, columns, width)``, after the
            final norm. The batch holds what the model was called with.
        head: Dotted name of the module whose weight is ``(vocab, width)``.
        ids: The model's parameter for token ids.
        scale, softcap: What the model applies to the product of the head, as in :class:`sftloss.Head`.
        added_loss: ``added_loss(model)`` returns what the model adds to its loss in the pass just run: a router loss.

    The model returns logits, or something with `logits`, or a tuple that begins with them. While a loss is attached
    and labels are given it returns a :class:`LossOutput`; with logits its body then runs twice.

    Example:
        >>> PlainPort(lambda model, batch: model.body(batch["input_ids"]), head="lm_head").head
        'lm_head'
    """

    hidden_of: Callable[[Any, Mapping[str, Any]], Tensor]
    head: str
    ids: str = "input_ids"
    scale: float = 1.0
    softcap: float | None = None
    added_loss: Callable[[Any], Tensor] | None = None

    def head_layer(self, model: nn.Module) -> nn.Module:
        try:
            return model.get_submodule(self.head)
        except AttributeError:
            raise ModelError(f"{type(model).__name__} has no module {self.head!r}; name its head.") from None

    def head_forms(self, model: nn.Module) -> Iterable[HeadForm]:
        return [HeadForm(self.scale, self.softcap)]

    def vocabulary(self, model: nn.Module) -> int:
        layer: Any = self.head_layer(model)
        return int(layer.weight.shape[0])

    def input_device(self, model: nn.Module) -> torch.device:
        return next(model.parameters()).device

    def takes_positions(self, model: nn.Module) -> bool:
        return "position_ids" in inspect.signature(type(model).forward).parameters

    def adds_loss(self, model: nn.Module) -> bool:
        return self.added_loss is not None

    def hidden(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        return self.hidden_of(model, self._named(inputs))

    def logits(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        return self._logits(model, model, inputs)

    def connect(self, model: nn.Module) -> Callable[[], None]:
        return _nothing

    def run(
        self, model: nn.Module, forward: Callable[..., Any], batch: Mapping[str, Any], form: HeadForm, keep_logits: bool
    ) -> ModelPass:
        hidden = self.hidden(model, batch)
        added = None if self.added_loss is None else self.added_loss(model)
        return ModelPass(hidden, added, self._logits(model, forward, batch) if keep_logits else None)

    def result(self, done: ModelPass, loss: Tensor, batch: Mapping[str, Any]) -> LossOutput:
        return LossOutput(loss, done.logits)

    def _named(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {self.ids if name == "input_ids" else name: value for name, value in batch.items()}

    def _logits(self, model: nn.Module, forward: Callable[..., Any], batch: Mapping[str, Any]) -> Tensor:
        accepted = inspect.signature(type(model).forward).parameters
        output = forward(**{name: value for name, value in self._named(batch).items() if name in accepted})
        output = output[0] if isinstance(output, (tuple, list)) else output
        logits: Tensor = getattr(output, "logits", output)
        return logits


def _nothing() -> None:
    """Undo nothing."""
