"""Any causal language model of transformers as two values: what computes hidden states, and the head that reads them.

The head is read from the model's configuration and proved once, on a tiny batch, against the model's own logits.
Where the two disagree (an adapter on the head, a packed or sharded weight, a transform nobody declared) the decoder
keeps the model's own logits and says why, instead of measuring another model.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sftloss.decoder.loading import first_line
from sftloss.errors import ModelError
from sftloss.statistics import Head

# config names under which families declare a factor on the logits; the exponent says which way most of them mean it
_SCALES = {
    "logit_scale": 1,
    "logits_scaling": -1,
    "lm_head_multiplier": 1,
    "output_multiplier": 1,
    "logits_mup_width_multiplier": -1,
}
_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


@dataclass(frozen=True)
class Decoder:
    """A causal language model, opened.

    Attributes:
        model: The whole model, as given.
        body: The part of it that ends in the last hidden states.
        head: How hidden states become logits; None where that cannot be read, then :meth:`logits` still works.
        reason: Why `head` is None, one clause; empty otherwise.
        vocab_size: Number of rows of the input embedding: token ids below it are legal.
        is_packable: Whether position ids alone keep packed examples apart in this model.
        takes_positions: Whether the forward pass accepts position ids.
    """

    model: nn.Module
    body: nn.Module
    head: Head | None
    reason: str = ""
    vocab_size: int = 0
    is_packable: bool = False
    takes_positions: bool = True

    @property
    def device(self) -> torch.device:
        """Where the input ids go."""
        return _layer(self.model, "get_input_embeddings").weight.device

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No gradient and no dropout inside; the modules' own modes are given back."""
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.training = True

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
        hidden = self._run(self.body, input_ids, position_ids, attention_mask)[0]
        return hidden if self.head is None else hidden.to(self.head.weight.device)

    def logits(
        self,
        input_ids: Int[Tensor, "rows columns"],
        position_ids: Int[Tensor, "rows columns"] | None = None,
        attention_mask: Int[Tensor, "rows columns"] | None = None,
    ) -> Float[Tensor, "rows columns vocab"]:
        """The model's own logits, all of them at once: for models without a readable head, and for checks."""
        return self._run(self.model, input_ids, position_ids, attention_mask).logits

    def _run(self, module: nn.Module, input_ids: Tensor, position_ids: Tensor | None, mask: Tensor | None) -> Any:
        if mask is None and position_ids is not None and not self.is_packable and _is_packed(position_ids):
            name = type(self.model).__name__
            raise ModelError(
                f"decoder: {name} lets packed examples see each other (position ids do not isolate them), "
                "pad the batches instead of packing them."
            )
        inputs: dict[str, Any] = {"input_ids": input_ids.to(self.device)}
        if mask is not None:
            inputs["attention_mask"] = mask.to(self.device)
        if position_ids is not None and self.takes_positions:
            inputs["position_ids"] = position_ids.to(self.device)
        # a cache, even an empty one, makes transformers drop the block-diagonal mask of packed rows
        return module(**inputs, use_cache=False)


def open_decoder(model: nn.Module) -> Decoder:
    """Read a model's decoder and head, and prove them on a tiny batch against the model's own logits.

    Args:
        model: Any causal language model of transformers, on any device, in any floating type.

    Returns:
        The decoder; its `head` is None, and `reason` says why, where the model's logits are not a plain
        function of its last hidden states.

    Raises:
        ModelError: If the model is an encoder-decoder, has no language-model head or does not run.

    Example:
        >>> decoder = open_decoder(model)                                      # doctest: +SKIP
        >>> decoder.head.logits(decoder.hidden(input_ids).flatten(0, 1))       # doctest: +SKIP
    """
    name = type(model).__name__
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"open_decoder: {name} is an encoder-decoder, give a causal (decoder-only) language model.")
    output, embedding = _layer(model, "get_output_embeddings"), _layer(model, "get_input_embeddings")
    if output is None or embedding is None:
        raise ModelError(f"open_decoder: {name} has no language-model head, load it as a causal language model.")
    body = _layer(model, "get_decoder") or model
    accepted = inspect.signature(body.forward).parameters
    opened = Decoder(
        model,
        body,
        head=None,
        vocab_size=embedding.num_embeddings,
        takes_positions="position_ids" in accepted or any(p.kind == p.VAR_KEYWORD for p in accepted.values()),
    )
    with opened.evaluating():
        try:
            head, reason = _prove(opened, output)
            packable = _isolates(opened)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ModelError(f"open_decoder: {name} does not run on eight tokens: {first_line(error)}") from error
    return replace(opened, head=head, reason=reason, is_packable=packable)


def _layer(model: nn.Module, getter: str) -> Any:
    try:
        return getattr(model, getter)()
    except (AttributeError, NotImplementedError):
        return None


def _prove(decoder: Decoder, output: nn.Module) -> tuple[Head | None, str]:
    """The declared head whose logits are the model's own, or None and the reason."""
    weight, bias = getattr(output, "weight", None), getattr(output, "bias", None)
    if (
        weight is None
        or type(weight) not in (Tensor, nn.Parameter)
        or not weight.is_floating_point()
        or weight.ndim != 2
    ):
        return None, "its head's weight is packed, quantised or sharded"
    if decoder.body is decoder.model:
        return None, "its decoder cannot be told from its head"
    ids = _probe_ids(decoder).view(2, 4)
    own = decoder.logits(ids)
    hidden = decoder.hidden(ids)
    if tuple(own.shape) != (2, 4, weight.shape[0]) or hidden.shape[-1] != weight.shape[1]:
        return None, f"its logits have shape {tuple(own.shape[2:])}, its head {tuple(weight.shape)}"
    # twice two roundings of the model's own type: one in the product, one in each elementwise step after it
    tolerance = max(4 * torch.finfo(own.dtype).eps, 4 * torch.finfo(hidden.dtype).eps, 1e-5)
    for scale, softcap in _declared(decoder.model.config):
        head = Head(weight, bias, scale, softcap)
        ours = head.logits(hidden.flatten(0, 1).to(weight.device, weight.dtype)).view_as(own)
        if _distance(ours, own) <= tolerance:
            return head, ""
    return None, "its logits are not the declared function of hidden states and head weight (an adapter on the head?)"


def _declared(config: Any) -> Iterator[tuple[float, float | None]]:
    """(scale, softcap) pairs the configuration speaks of, the likeliest first; the proof chooses."""
    text = config.get_text_config()
    scales = []
    for name, exponent in _SCALES.items():
        value = getattr(text, name, None)
        if value:
            scales += [float(value) ** exponent, float(value) ** -exponent]
    softcaps = [float(value) for name in _SOFTCAPS if (value := getattr(text, name, None))]
    yield from product([*scales, 1.0], [*softcaps, None])


def _isolates(decoder: Decoder) -> bool:
    """Whether two examples in one row, told apart by position ids only, are computed as if each were alone."""
    if not decoder.takes_positions:
        return False
    ids = _probe_ids(decoder)[None]
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]])
    run = replace(decoder, is_packable=True).hidden
    alone = torch.cat([run(ids[:, :5], positions[:, :5]), run(ids[:, 5:], positions[:, 5:])], dim=1)
    packed = run(ids, positions)
    # low precision accumulates its roundings over the layers; a leak moves hidden states by tens of percent
    return _distance(packed, alone) <= (1e-3 if torch.finfo(packed.dtype).eps < 1e-5 else 0.05)


def _probe_ids(decoder: Decoder) -> Tensor:
    """Eight ordinary tokens: special ones (padding, images) live at both ends of a vocabulary."""
    return torch.linspace(0.15, 0.75, 8).mul(decoder.vocab_size - 1).long()


def _distance(ours: Tensor, own: Tensor) -> float:
    """Root-mean-square difference, relative; columns that are -inf on both sides are equal, NaN is never close."""
    ours, own = ours.double().cpu(), own.double().cpu()
    difference = torch.where(ours == own, 0.0, ours - own)
    size = own[own.isfinite()].norm().clamp(min=torch.finfo(torch.float64).tiny)
    distance = float(difference.norm() / size)
    return distance if distance == distance else float("inf")


def _is_packed(position_ids: Tensor) -> bool:
    return bool((position_ids[:, 1:] == 0).any())
