"""The head as it is in one pass: sharded or not, with what PEFT put on it; and the proof that it makes the logits.

It is read anew in each pass, so whichever adapter is active then, disabled or merged, is the one that trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate

from sftloss.decoder.port import HeadForm
from sftloss.errors import ModelError
from sftloss.ranks import reduce_over_ranks
from sftloss.statistics import Head, Shard

_LORA = ("peft.tuners.lora.layer", "Linear")
_TRAINED_TOKENS = "TrainableTokensLayer"
NAN_CURE = "check its weights for NaN, and its dtype"


def read_head(layer: Any, hidden: Tensor, form: HeadForm) -> tuple[Tensor, Head]:
    """The head, and the hidden states as it takes them: on its device, the adapters' inputs beside them.

    Args:
        layer: The module that makes logits.
        hidden: ``(tokens, width)``.
        form: Scale, softcap and the mesh the weight may be spread over.
    """
    if hasattr(layer, "unshard"):
        layer.unshard()  # a head that is a unit of FSDP2 by itself is sharded again after its own forward
    weight, bias, names = _weight(layer), getattr(layer, "bias", None), acting_adapters(layer)
    if isinstance(weight, DTensor) and weight.device_mesh != form.mesh:
        raise ModelError(
            "sftloss: the head's weight is sharded inside the model's forward pass, as it was not when the "
            "loss was attached; make the model tensor-parallel first, then attach, and call the module that "
            "fully_shard was given last."
        )
    hidden = hidden.to(weight.device)
    if not names:
        shard = Shard.of(weight) if isinstance(weight, DTensor) else None
        return hidden, Head(weight, bias, form.scale, form.softcap, shard)
    if isinstance(weight, DTensor):
        raise ModelError(
            "sftloss: a low-rank adapter on a tensor-parallel head is not supported; leave the head out of "
            "target_modules."
        )
    # PEFT's own modules, so that its dropout, number formats and autocast are the model's
    inputs = [
        layer.scaling[n] * layer.lora_A[n](layer.lora_dropout[n](hidden.to(layer.lora_A[n].weight.dtype)))
        for n in names
    ]
    low_rank = torch.cat([layer.lora_B[n].weight for n in names], dim=1)
    return torch.cat([hidden, *inputs], dim=1), Head(weight, bias, form.scale, form.softcap, low_rank=low_rank)


def acting_adapters(layer: Any) -> list[str]:
    """Names of the low-rank adapters that act on the head now."""
    if not is_lora(layer):
        module = _trained_tokens(layer)
        module = active_copy(layer) if module is None else module.base_layer
        further = sorted({n.split(".")[0] for n, _ in module.named_parameters()} - {"weight", "bias"})
        if further:
            raise ModelError(
                f"sftloss: the head has {', '.join(further)} beside weight and bias, which is no plain low-rank "
                "adapter; leave the head out of target_modules, or train it whole with modules_to_save."
            )
        return []
    if layer.disable_adapters or layer.merged:
        return []
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    for name in names:
        if name in layer.lora_variant or layer.lora_bias.get(name):
            kind = type(layer.lora_variant[name]).__name__ if name in layer.lora_variant else "lora_bias=True"
            raise ModelError(
                f"sftloss: the adapter {name!r} on the head is {kind}, not plain LoRA; use LoRA there, or leave the "
                "head out of target_modules."
            )
    return names


def is_lora(layer: Any) -> bool:
    """Whether PEFT put low-rank adapters on the head, acting or not."""
    kind = next(c for c in type(layer).__mro__ if not issubclass(c, FSDPModule))  # fully_shard changes the class
    return (kind.__module__, kind.__name__) == _LORA


def is_whole(layer: Any) -> bool:
    """Whether the head is a plain floating weight that may be read at any time."""
    weight: Any = getattr(layer, "weight", None)
    is_plain = type(weight) in (Tensor, nn.Parameter) and weight.ndim == 2 and weight.is_floating_point()
    return is_plain and not is_lora(layer)


def is_partitioned(model: nn.Module) -> bool:
    """Whether DeepSpeed's third stage holds the parameters: they are empty except while its engine runs the model."""
    return any(hasattr(p, "ds_id") for p in model.parameters())


def proved_form(layer: nn.Module, forms: Iterable[HeadForm], hidden: Tensor, own: Tensor) -> HeadForm | None:
    """The first form whose logits are the model's own, the same on every rank; None if there is none.

    Args:
        layer: The module that makes logits.
        forms: The candidates.
        hidden: ``(tokens, width)``.
        own: The model's logits, ``(tokens, vocab)``, all of them or the columns of this rank's rows of the weight.
    """
    mesh = getattr(_weight(layer), "device_mesh", None)
    # twice two roundings of the model's own type: one in the product, one in each elementwise step after it
    tolerance = max(4 * torch.finfo(own.dtype).eps, 4 * torch.finfo(hidden.dtype).eps, 1e-5)
    for form in (replace(form, mesh=mesh) for form in forms):
        states, head = read_head(layer, hidden, form)
        low_rank = None if head.low_rank is None else head.low_rank.to(head.weight.dtype)
        ours = replace(head, low_rank=low_rank).logits(states.to(head.weight.dtype))
        theirs = own if own.shape[-1] == ours.shape[-1] else own[:, head.start : head.start + ours.shape[-1]]
        distance = torch.tensor(relative_distance(ours, theirs), device=ours.device)
        if mesh is not None:
            reduce_over_ranks(distance, "max", mesh.get_group())
        if float(distance) <= tolerance:
            return form
    return None


def relative_distance(ours: Tensor, own: Tensor) -> float:
    """Root-mean-square difference, relative; columns that are -inf on both sides are equal, NaN is never close."""
    if ours.shape != own.shape:
        return float("inf")
    ours, own = ours.cpu().double(), own.cpu().double()  # MPS has no float64
    difference = torch.where(ours == own, 0.0, ours - own)
    size = own[own.isfinite()].norm().clamp(min=torch.finfo(torch.float64).tiny)
    distance = float(difference.norm() / size)
    return distance if distance == distance else float("inf")


def local_hidden(hidden: Tensor) -> Tensor:
    """Hidden states as a plain tensor, the same on every tensor-parallel rank; the loss sums their gradient itself."""
    if not isinstance(hidden, DTensor):
        return hidden
    every = [Replicate()] * hidden.device_mesh.ndim
    return hidden.redistribute(placements=every).to_local(grad_placements=every)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No gradient and no dropout inside; the modules' own modes are restored afterwards."""
    with without_dropout(model), torch.no_grad():
        yield


@contextmanager
def without_dropout(model: nn.Module, *, has_checkpoints: bool = False) -> Iterator[None]:
    """Evaluation mode inside; the modules' own modes are restored afterwards.

    Layers of bitsandbytes stay in training mode: some processors repack them, without a gradient, in the other. With
    `has_checkpoints` so do modules with gradient checkpointing, which works in training mode only.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for module, is_training in modes.items():
        is_checkpoint = has_checkpoints and is_training and getattr(module, "gradient_checkpointing", False)
        if is_checkpoint or type(module).__module__.startswith("bitsandbytes."):
            module.training = True
    try:
        yield
    finally:
        for module, is_training in modes.items():
            module.training = is_training


def _weight(layer: Any) -> Any:
    """The weight that acts now: PEFT's trainable tokens are copied into it."""
    adapter = _trained_tokens(layer)
    if adapter is None or adapter.disable_adapters or adapter.merged:
        return layer.weight
    return adapter.get_merged_weights(adapter.active_adapters)


def _trained_tokens(layer: Any) -> Any:
    adapter = getattr(layer, "token_adapter", layer)
    return adapter if type(adapter).__name__ == _TRAINED_TOKENS else None


def active_copy(layer: Any) -> nn.Module:
    """The copy that PEFT's modules_to_save trains, or the module itself."""
    copies = getattr(layer, "modules_to_save", None)
    active = getattr(layer, "active_adapter", None)
    active = active[0] if isinstance(active, (list, tuple)) and active else active
    chosen: nn.Module = layer
    if copies is not None:
        chosen = copies[active] if active in copies else layer.original_module  # noqa: SIM401
    return chosen
