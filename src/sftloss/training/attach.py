"""Attach a loss to one model, and detach it."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from sftloss.decoder.decoder import probe_ids
from sftloss.decoder.head import (
    acting_adapters,
    evaluating,
    is_lora,
    is_partitioned,
    is_whole,
    local_hidden,
    proved_form,
)
from sftloss.decoder.loading import first_line
from sftloss.decoder.port import HeadForm, ModelPort
from sftloss.decoder.ports import port_of, unwrapped
from sftloss.errors import ModelError
from sftloss.statistics import Objective
from sftloss.training.attachment import MARK, Attachment, own_signature
from sftloss.training.loss import Loss, as_loss


def attach(model: nn.Module, loss: Loss | str | Objective, *, port: ModelPort | None = None) -> Attachment:
    """Train a model with a loss: from now on ``model(..., labels=labels).loss`` is that loss, and holds no logits.

    The forward of this one instance changes, reversibly; no class and nothing global does. Without labels, and so in
    generation, it is the model's own. In training mode logits are left out; in evaluation mode, and with
    ``output_logits=True``, they are there as before.

    Args:
        model: A causal language model of transformers, or of a class with a port; alone, or as DDP, FSDP2, PEFT or
            torch.compile return it.
        loss: The loss, or just its objective.
        port: The access to a model that is not one of transformers; by default the port of its class.

    Returns:
        The attachment; its `step` counts the normalizer of an optimizer step, `detach` ends it.

    Raises:
        ModelError: If the head's product is not the model's own logits (an adapter other than LoRA on the head, a
            packed weight), the model already has a loss attached, or is wrapped in `nn.DataParallel`.

    Example:
        >>> attachment = attach(model, "cross_entropy + 1e-4 * z_loss")        # doctest: +SKIP
        >>> step = attachment.step(micro_batches)                              # doctest: +SKIP
        >>> for batch in micro_batches:                                        # doctest: +SKIP
        ...     model(**batch, num_items_in_batch=step).loss.backward()
    """
    chain = unwrapped(model)
    base = chain[-1]
    if vars(base).get(MARK) is not None:
        raise ModelError("this model has a loss attached already", cure="detach it first")
    port, loss = port or port_of(base), as_loss(loss)
    form = prove_head(base, port, model)
    outside = [module for module in chain[:-1] if hasattr(module, "get_base_model")]
    return Attachment(base, loss, port, form, [*outside, base])


def detach(model: nn.Module) -> None:
    """Give a model its own loss back.

    Raises:
        ModelError: If no loss is attached.
    """
    attachment = attachment_of(model)
    if attachment is None:
        raise ModelError("this model has no loss attached")
    attachment.detach()


def attachment_of(model: nn.Module) -> Attachment | None:
    """The loss at work in a model, or None."""
    return vars(unwrapped(model)[-1]).get(MARK)


def prove_head(model: nn.Module, port: ModelPort, outer: nn.Module) -> HeadForm:
    """Check once, on eight tokens, that hidden states and head give the model's own logits.

    The check runs inside a forward pass of the model, where sharded weights are whole; every rank calls this.

    Raises:
        ModelError: If they do not, or the model does not run.
    """
    name = type(model).__name__
    try:
        layer = port.head_layer(model)
    except ModelError as error:
        raise ModelError(str(error).rstrip(".")) from None
    acting_adapters(layer)
    weight = getattr(layer, "weight", None)
    is_spread = isinstance(weight, DTensor) or is_partitioned(model)
    if not (is_spread or is_lora(layer) or is_whole(layer)):
        raise _unfused(name, "its head's weight is packed, quantised or sharded")
    probe = _Probe(model, port, layer)
    disconnect, before = port.connect(model), vars(model).get("forward")
    model.forward = probe
    # FSDP2 and DeepSpeed gather weights in the pass of the module they were given
    caller = outer if is_spread else model
    try:
        with evaluating(outer):
            caller(probe_ids(port.vocabulary(model)).view(2, 4).to(port.input_device(model)))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise ModelError(f"{name} does not run on eight tokens: {first_line(error)}") from error
    finally:
        disconnect()
        del model.forward
        if before is not None:
            model.forward = before
        for module in outer.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # no backward pass will
    if probe.form is None:
        raise _unfused(name, "its logits are not the declared function of hidden states and head weight")
    return probe.form


class _Probe:
    """The forward pass of a model that proves its head."""

    def __init__(self, model: Any, port: ModelPort, layer: nn.Module) -> None:
        self.model, self.port, self.layer = model, port, layer
        self.own = model.forward
        self.form: HeadForm | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        batch = {**dict(zip(own_signature(self.model).parameters, args, strict=False)), **kwargs}
        batch = {name: value for name, value in batch.items() if value is not None}
        ids = next(iter(batch.values()))
        done = self.port.run(self.model, self.own, {**batch, "labels": ids}, HeadForm(), True)
        own = done.logits
        assert own is not None
        own = own.full_tensor() if isinstance(own, DTensor) else own
        hidden = local_hidden(done.hidden).flatten(0, 1)
        self.form = proved_form(self.layer, self.port.head_forms(self.model), hidden, own.flatten(0, 1))
        return done.logits


def _unfused(name: str, reason: str) -> ModelError:
    return ModelError(
        f"the loss of {name} cannot be fused with its head: {reason}. Attach to the model as loaded, with a head in a "
        "floating type, before anything shards it"
    )
