"""Which port serves a model, and the model itself inside its wrappers."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule

from sftloss.decoder.port import ModelPort
from sftloss.decoder.transformers_port import TransformersPort
from sftloss.errors import ModelError

_TRANSFORMERS = TransformersPort()
_PORTS: dict[type[nn.Module], ModelPort] = {}
_WRAPPERS = ("torch", "deepspeed", "accelerate", "megatron")  # packages whose wrappers hold the model as `module`
_NO_WRAPPERS = (nn.Module, FSDPModule)


def register_port(model_class: type[nn.Module], port: ModelPort) -> None:
    """Use a port for every model of this class and its subclasses, wherever no other port is given.

    Example:
        >>> register_port(MyDecoder, PlainPort(my_hidden_states, head="output"))          # doctest: +SKIP
    """
    _PORTS[model_class] = port


def port_of(model: nn.Module) -> ModelPort:
    """The port registered for the model's class; that of transformers for its models.

    Raises:
        ModelError: If there is none.
    """
    default = _TRANSFORMERS if hasattr(model, "get_output_embeddings") else None
    port = next((_PORTS[cls] for cls in type(model).__mro__ if cls in _PORTS), default)
    if port is None:
        raise ModelError(
            f"{type(model).__name__} is not a model of transformers and no port is registered for its class; pass "
            "port=sftloss.decoder.PlainPort(...), see docs/own_host.md."
        )
    return port


def unwrapped(model: nn.Module) -> list[nn.Module]:
    """The model as given, then what each wrapper holds: DDP, DeepSpeed, torch.compile, PEFT. The last is the model
    itself. FSDP2 wraps nothing.
    """
    inner: Any = None
    if isinstance(model, nn.DataParallel):
        raise ModelError(
            "nn.DataParallel is not supported, because it copies the model in every pass; start one process "
            "per GPU with torchrun and use DistributedDataParallel."
        )
    if hasattr(model, "_orig_mod"):
        inner = model._orig_mod
    elif hasattr(model, "get_base_model"):
        inner = model.get_base_model()  # type: ignore[operator]
    elif any(cls.__module__.split(".")[0] in _WRAPPERS for cls in type(model).__mro__ if cls not in _NO_WRAPPERS):
        inner = getattr(model, "module", None)
    return [model, *(unwrapped(inner) if isinstance(inner, nn.Module) else [])]
