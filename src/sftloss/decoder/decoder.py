"""A causal language model as two values: what computes hidden states, and the head that reads them.

The form of the head is read by the model's port and proved once, on a tiny batch, against the model's own logits.
Where the two disagree (an adapter on the head, a packed or sharded weight, an undeclared transform) the decoder keeps
the model's own logits and gives the reason.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sftloss.decoder.head import (
    NAN_CURE,
    acting_adapters,
    evaluating,
    is_whole,
    proved_form,
    read_head,
    relative_distance,
)
from sftloss.decoder.loading import first_line
from sftloss.decoder.port import ModelPort
from sftloss.decoder.ports import port_of
from sftloss.errors import ModelError
from sftloss.statistics import Head


@dataclass(frozen=True)
class Decoder:
    """A causal language model, opened.

    Attributes:
        model: The whole model, as given.
        port: The access to its hidden states and its head.
        head: How hidden states become logits; None where that cannot be read, then :meth:`logits` still works.
        reason: Why `head` is None, one clause; empty otherwise.
        is_packable: Whether position ids alone keep packed examples apart in this model.
    """

    model: nn.Module
    port: ModelPort
    head: Head | None = None
    reason: str = ""
    is_packable: bool = False

    @property
    def device(self) -> torch.device:
        """Where the input ids go."""
        return self.port.input_device(self.model)

    @property
    def vocab_size(self) -> int:
        """Token ids below it are legal."""
        return self.port.vocabulary(self.model)

    def evaluating(self) -> AbstractContextManager[None]:
        """No gradient and no dropout inside; the modules' own modes are restored afterwards."""
        return evaluating(self.model)

    def hidden(
        self,
        input_ids: Int[Tensor, "rows columns"],
        position_ids: Int[Tensor, "rows columns"] | None = None,
        attention_mask: Int[Tensor, "rows columns"] | None = None,
    ) -> Float[Tensor, "rows columns hidden"]:
        """Last hidden states. Without an attention mask the rows are packed and position ids isolate the examples.

        Raises:
            ModelError: If several examples share a row and this model cannot keep them apart.
        """
        hidden = self.port.hidden(self.model, self._inputs(input_ids, position_ids, attention_mask))
        return hidden if self.head is None else hidden.to(self.head.weight.device)

    def logits(
        self,
        input_ids: Int[Tensor, "rows columns"],
        position_ids: Int[Tensor, "rows columns"] | None = None,
        attention_mask: Int[Tensor, "rows columns"] | None = None,
    ) -> Float[Tensor, "rows columns vocab"]:
        """The model's own logits, all of them at once: for models without a readable head, and for checks."""
        return self.port.logits(self.model, self._inputs(input_ids, position_ids, attention_mask))

    def _inputs(self, input_ids: Tensor, position_ids: Tensor | None, mask: Tensor | None) -> dict[str, Any]:
        is_packed = mask is None and position_ids is not None and bool((position_ids[:, 1:] == 0).any())
        if is_packed and not self.is_packable:
            name = type(self.model).__name__
            raise ModelError(
                f"{name} lets packed examples see each other (position ids do not isolate them)",
                cure="pad the batches instead of packing them",
            )
        inputs: dict[str, Any] = {"input_ids": input_ids.to(self.device)}
        if mask is not None:
            inputs["attention_mask"] = mask.to(self.device)
        if position_ids is not None and self.port.takes_positions(self.model):
            inputs["position_ids"] = position_ids.to(self.device)
        return inputs


def open_decoder(model: nn.Module, port: ModelPort | None = None) -> Decoder:
    """Read a model's decoder and head, and prove them on a tiny batch against the model's own logits.

    Args:
        model: Any causal language model of transformers, or of a class with a port, on any device, in any floating
            type.
        port: The access to a model that is not one of transformers; by default the port of its class.

    Returns:
        The decoder; its `head` is None, with the reason in `reason`, where the model's logits are not a plain
        function of its last hidden states.

    Raises:
        ModelError: If the model is an encoder-decoder, has no language-model head or does not run.

    Example:
        >>> decoder = open_decoder(model)                                      # doctest: +SKIP
        >>> decoder.head.logits(decoder.hidden(input_ids).flatten(0, 1))       # doctest: +SKIP
    """
    opened = Decoder(model, port or port_of(model))
    try:
        layer = opened.port.head_layer(model)
    except ModelError as error:
        raise ModelError(str(error).rstrip(".")) from None
    with opened.evaluating():
        try:
            head, reason = _prove(opened, layer)
            packable = _isolates(opened)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            name = type(model).__name__
            raise ModelError(f"{name} does not run on eight tokens: {first_line(error)}") from error
    return replace(opened, head=head, reason=reason, is_packable=packable)


def probe_ids(vocabulary: int) -> Int[Tensor, " 8"]:
    """Eight ordinary tokens: special ones (padding, images) live at both ends of a vocabulary."""
    return torch.linspace(0.15, 0.75, 8).mul(vocabulary - 1).long()


def _prove(decoder: Decoder, layer: nn.Module) -> tuple[Head | None, str]:
    """The declared head whose logits are the model's own, or None and the reason."""
    weight = getattr(layer, "weight", None)
    undeclared = (
        None,
        "its logits are not the declared function of hidden states and head weight (an adapter on the head?)",
    )
    if not is_whole(layer):
        return None, "its head's weight is packed, quantised or sharded"
    try:
        if acting_adapters(layer):
            return undeclared
    except ModelError:
        return undeclared
    assert isinstance(weight, Tensor)
    ids = probe_ids(decoder.vocab_size).view(2, 4)
    own, hidden = decoder.logits(ids), decoder.hidden(ids)
    if tuple(own.shape) != (2, 4, weight.shape[0]) or hidden.shape[-1] != weight.shape[1]:
        return None, f"its logits have shape {tuple(own.shape[2:])}, its head {tuple(weight.shape)}"
    if bool(own.isnan().any()):
        return None, f"its logits are NaN ({NAN_CURE})"
    form = proved_form(layer, decoder.port.head_forms(decoder.model), hidden.flatten(0, 1), own.flatten(0, 1))
    return undeclared if form is None else (read_head(layer, hidden.flatten(0, 1), form)[1], "")


def _isolates(decoder: Decoder) -> bool:
    """Whether two examples in one row, separated by position ids only, are computed as if each were alone."""
    if not decoder.port.takes_positions(decoder.model):
        return False
    ids = probe_ids(decoder.vocab_size)[None]
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]])
    run = replace(decoder, is_packable=True).hidden
    alone = torch.cat([run(ids[:, :5], positions[:, :5]), run(ids[:, 5:], positions[:, 5:])], dim=1)
    packed = run(ids, positions)
    # low precision accumulates its roundings over the layers; a leak moves hidden states by tens of percent
    return relative_distance(packed, alone) <= (1e-3 if torch.finfo(packed.dtype).eps < 1e-5 else 0.05)
