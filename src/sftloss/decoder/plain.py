"""The port of a plain `nn.Module`: a function to its hidden states and the name of its head."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sftloss.decoder.port import HeadForm, LossOutput, ModelPass
from sftloss.errors import ModelError


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
    and labels are given it returns a :class:`LossOutput`; with ``output_logits=True`` its body then runs twice.

    Example:
        >>> port = PlainPort(lambda model, batch: model.body(batch["input_ids"]), head="lm_head")
        >>> port.head
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
        return getattr(output, "logits", output)


def _nothing() -> None:
    """Undo nothing."""
