"""The port of the models of transformers: everything here that depends on their insides.

A training pass runs the model's own forward with two changes: it keeps no logits, and its loss function answers zero.
What the family adds to its loss (router losses, say) is then left alone in the model's loss.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from sftloss.decoder.port import HeadForm, ModelPass
from sftloss.errors import ModelError

# config names under which families declare a factor on the logits; the exponent says which way most of them mean it
_SCALES = {
    "logit_scale": 1,
    "logits_scaling": -1,
    "lm_head_multiplier": 1,
    "output_multiplier": 1,
    "logits_mup_width_multiplier": -1,
}
_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


@dataclass
class _Running:
    """A pass under way in this thread."""

    body: nn.Module
    hidden: list[Tensor] = field(default_factory=list)
    is_loss_replaced: bool = False


_RUNNING: ContextVar[_Running | None] = ContextVar("sftloss_running", default=None)


def _take_hidden(module: nn.Module, inputs: Any, output: Any) -> None:
    """Forward hook of a connected model's body."""
    running = _RUNNING.get()
    if running is not None and running.body is module:
        running.hidden.append(output[0])


@dataclass
class ZeroLoss:
    """Stands for a connected model's loss function: zero in our passes, the model's own in all others."""

    own: Callable[..., Tensor]

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        running = _RUNNING.get()
        if running is None or not running.hidden:
            return self.own(*args, **kwargs)
        running.is_loss_replaced = True
        like = running.hidden[0]
        return torch.zeros((), device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))


@dataclass
class _Connection:
    """Undoes `connect`. An object, so that a deep copy of model and attachment undoes it in the copy."""

    model: Any
    hook: Any
    before: Any

    def __call__(self) -> None:
        self.hook.remove()
        if self.before is None:
            del self.model._loss_function
        else:
            self.model._loss_function = self.before


class TransformersPort:
    """Reads causal language models of transformers, with whatever PEFT put into them."""

    def head_layer(self, model: nn.Module) -> nn.Module:
        name = type(model).__name__
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            raise ModelError(f"{name} is an encoder-decoder, give a causal (decoder-only) language model.")
        output: nn.Module | None = _layer(model, "get_output_embeddings")
        if output is None or _layer(model, "get_input_embeddings") is None:
            raise ModelError(f"{name} has no language-model head, load it as a causal language model.")
        return output

    def head_forms(self, model: Any) -> Iterable[HeadForm]:
        text = model.config.get_text_config()
        scales = []
        for name, exponent in _SCALES.items():
            value = getattr(text, name, None)
            if value:
                scales += [float(value) ** exponent, float(value) ** -exponent]
        softcaps = [float(value) for name in _SOFTCAPS if (value := getattr(text, name, None))]
        return [HeadForm(*pair) for pair in product([*scales, 1.0], [*softcaps, None])]

    def vocabulary(self, model: Any) -> int:
        embedding = model.get_input_embeddings()
        # the weight is empty under the third stage of DeepSpeed; PEFT's embeddings have no num_embeddings
        return int(getattr(embedding, "num_embeddings", None) or embedding.weight.shape[0])

    def input_device(self, model: Any) -> torch.device:
        weight: Tensor = next(model.get_input_embeddings().parameters())
        return weight.device

    def takes_positions(self, model: nn.Module) -> bool:
        accepted = inspect.signature(_body(model).forward).parameters
        return "position_ids" in accepted or any(p.kind == p.VAR_KEYWORD for p in accepted.values())

    def adds_loss(self, model: Any) -> bool:
        return bool(getattr(model.config, "output_router_logits", False))

    def hidden(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        # a cache, even an empty one, makes transformers drop the block-diagonal mask of packed rows
        hidden: Tensor = _body(model)(**inputs, use_cache=False)[0]
        return hidden

    def logits(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        logits: Tensor = model(**inputs, use_cache=False).logits
        return logits

    def connect(self, model: Any) -> Callable[[], None]:
        before = vars(model).get("_loss_function")
        connection = _Connection(model, _body(model).register_forward_hook(_take_hidden), before)
        model._loss_function = ZeroLoss(model.loss_function)
        return connection

    def run(
        self, model: nn.Module, forward: Callable[..., Any], batch: Mapping[str, Any], form: HeadForm, keep_logits: bool
    ) -> ModelPass:
        labels = batch["labels"] if batch.get("labels") is not None else batch["shift_labels"]
        inputs = {name: value for name, value in batch.items() if name not in ("shift_labels", "num_items_in_batch")}
        inputs = {"use_cache": False, **inputs, "labels": labels, "return_dict": True}
        if not keep_logits:
            # the product of the head is then (rows, 0, vocab); a sharded head makes one position instead, because a
            # DTensor cannot be empty in between
            inputs["logits_to_keep"] = torch.zeros(int(form.mesh is not None), dtype=torch.long, device=labels.device)
        running = _Running(_body(model))
        token = _RUNNING.set(running)
        try:
            outputs = forward(**inputs)
        finally:
            _RUNNING.reset(token)
        if not running.is_loss_replaced or len(running.hidden) != 1:
            raise ModelError(
                f"{type(model).__name__} does not compute its loss with its loss_function from its decoder's "
                "output, so the loss cannot be replaced in it; compute sftloss.weighted_loss in your own loop."
            )
        return ModelPass(running.hidden[0], outputs.loss, outputs.logits if keep_logits else None, outputs)

    def result(self, done: ModelPass, loss: Tensor, batch: Mapping[str, Any]) -> Any:
        kept = {name: value for name, value in done.outputs.items() if done.logits is not None or name != "logits"}
        outputs = type(done.outputs)(**{**kept, "loss": loss})
        return outputs.to_tuple() if batch.get("return_dict") is False else outputs


def _body(model: nn.Module) -> nn.Module:
    body = _layer(model, "get_decoder")
    # where it finds none, transformers answers with the model itself, or with a head that is named decoder
    return getattr(model, "model", model) if body in (None, model) or isinstance(body, nn.Linear) else body


def _layer(model: nn.Module, getter: str) -> Any:
    try:
        return getattr(model, getter)()
    except (AttributeError, NotImplementedError):
        return None
