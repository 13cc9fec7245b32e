"""The head a model has in this pass, with what PEFT put on it: a copy trained whole, or low-rank adapters.

Read anew at each pass, so whichever adapter is active then, disabled or merged, is the one that trains.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from sftloss.errors import ModelError
from sftloss.statistics import Head, Shard

_LORA = ("peft.tuners.lora.layer", "Linear")


def read_head(output: Any, hidden: Tensor, scale: float, softcap: float | None) -> tuple[Tensor, Head]:
    """The head, and the hidden states as it takes them: on its device, the adapters' inputs beside them.

    Args:
        output: The module that makes logits.
        hidden: ``(tokens, hidden)``.
        scale, softcap: As in :class:`Head`.

    Raises:
        ModelError: If what acts on the head is more than weight, bias and plain low-rank adapters.
    """
    weight, bias = output.weight, getattr(output, "bias", None)
    hidden, names = hidden.to(weight.device), acting(output)
    if not names:
        return hidden, Head(weight, bias, scale, softcap, Shard.of(weight) if isinstance(weight, DTensor) else None)
    if isinstance(weight, DTensor):
        raise ModelError(
            "sftloss: the head is tensor-parallel and has a low-rank adapter, which is not there yet; leave the head "
            "out of target_modules."
        )
    # PEFT's own modules, so that its dropout, number formats and autocast are the model's
    inputs = [
        output.scaling[n] * output.lora_A[n](output.lora_dropout[n](hidden.to(output.lora_A[n].weight.dtype)))
        for n in names
    ]
    low_rank = torch.cat([output.lora_B[n].weight for n in names], dim=1)
    return torch.cat([hidden, *inputs], dim=1), Head(weight, bias, scale, softcap, low_rank=low_rank)


def is_lora(output: Any) -> bool:
    """Whether PEFT put low-rank adapters on the head, acting or not."""
    kind = next(c for c in type(output).__mro__ if not issubclass(c, FSDPModule))  # fully_shard changes the class
    return (kind.__module__, kind.__name__) == _LORA


def acting(output: Any) -> list[str]:
    """Names of the low-rank adapters that act on the head now.

    Raises:
        ModelError: If something else does.
    """
    if not is_lora(output):
        further = sorted({n.split(".")[0] for n, _ in _active_copy(output).named_parameters()} - {"weight", "bias"})
        if further:
            raise ModelError(
                f"sftloss: the head has {', '.join(further)} beside weight and bias, which is no plain low-rank "
                "adapter; leave the head out of target_modules, or train it whole with modules_to_save."
            )
        return []
    if output.disable_adapters or output.merged:
        return []
    names = [name for name in output.active_adapters if name in output.lora_A]
    for name in names:
        if name in output.lora_variant or output.lora_bias.get(name):
            kind = type(output.lora_variant[name]).__name__ if name in output.lora_variant else "lora_bias=True"
            raise ModelError(
                f"sftloss: the adapter {name!r} on the head is {kind}, not plain LoRA; use LoRA there, or leave the "
                "head out of target_modules."
            )
    return names


def _active_copy(output: nn.Module) -> nn.Module:
    """The copy that PEFT's modules_to_save trains, or the module itself."""
    copies = getattr(output, "modules_to_save", None)
    if copies is None:
        return output
    active = getattr(output, "active_adapter", None)
    active = active[0] if isinstance(active, (list, tuple)) and active else active
    chosen: Any = copies[active] if active in copies else output.original_module  # noqa: SIM401
    return chosen
