"""The head of a model that is trained: found inside its wrappers, refused where its product is not the model's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sftloss.decoder import open_decoder
from sftloss.errors import ModelError
from sftloss.statistics import Head
from sftloss.training.head.adapters import acting, is_lora, read_head
from sftloss.training.head.sharded import prove_in_forward


@dataclass(frozen=True)
class HeadForm:
    """What of a head does not change while it trains; its weight is read anew at each pass."""

    scale: float = 1.0
    softcap: float | None = None
    mesh: Any = None
    """The tensor-parallel mesh its rows are spread over, or None."""

    @property
    def copies(self) -> int:
        """Ranks that hold the same tokens."""
        return 1 if self.mesh is None else self.mesh.size()

    def read(self, model: nn.Module, hidden: Tensor) -> tuple[Tensor, Head]:
        """The head with the weight it has now, wherever FSDP gathered it, and the hidden states as it takes them."""
        output = model.get_output_embeddings()  # type: ignore[operator]
        if hasattr(output, "unshard"):
            output.unshard()  # a head that is a unit of FSDP2 by itself is sharded again after its own forward
        if isinstance(output.weight, DTensor) and output.weight.device_mesh != self.mesh:
            raise ModelError(
                "sftloss: the head's weight is sharded inside the model's forward pass, as it was not when the "
                "loss was attached; make the model tensor-parallel first, then attach, and call the module that "
                "fully_shard was given last."
            )
        return read_head(output, hidden, self.scale, self.softcap)


def unwrap(model: nn.Module) -> Any:
    """The transformers model inside DDP, DeepSpeed's engine, torch.compile and PEFT; FSDP2 wraps nothing."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()  # type: ignore[operator]
        elif isinstance(getattr(model, "module", None), nn.Module) and not hasattr(
            type(model), "get_output_embeddings"
        ):
            model = model.module  # type: ignore[assignment]
        else:
            return model


def prove_head(model: nn.Module, outer: nn.Module | None = None) -> HeadForm:
    """Check once, on eight tokens, that hidden states and head give the model's own logits.

    A sharded head, or one with adapters, is checked in a forward pass of the model itself, so every rank calls this.

    Raises:
        ModelError: If they do not.
    """
    output = getattr(model, "get_output_embeddings", lambda: None)()
    with _packed_as_they_are(model):
        if output is not None:
            acting(output)
            if is_lora(output) or isinstance(getattr(output, "weight", None), DTensor) or is_partitioned(model):
                return HeadForm(*prove_in_forward(model, outer or model, output))
        decoder = open_decoder(model)
    name = type(model).__name__
    if decoder.head is None:
        raise ModelError(
            f"attach: the loss of {name} cannot be fused with its head: {decoder.reason}. Give attach the model as "
            "loaded, with a head in a floating type, before anything shards it."
        )
    return HeadForm(decoder.head.scale, decoder.head.softcap)


@contextmanager
def _packed_as_they_are(model: nn.Module) -> Iterator[None]:
    """Layers of bitsandbytes in training mode: some processors pack them anew, and without gradient, in the other."""
    layers = [module for module in model.modules() if type(module).__module__.startswith("bitsandbytes.")]
    modes = [layer.training for layer in layers]
    hooks = [layer.register_forward_pre_hook(lambda module, _inputs: module.train() and None) for layer in layers]
    try:
        yield
    finally:
        for layer, mode, hook in zip(layers, modes, hooks, strict=True):
            layer.train(mode)
            hook.remove()


def is_partitioned(model: nn.Module) -> bool:
    """Whether DeepSpeed's third stage holds the parameters: they are empty but while its engine runs the model."""
    return any(hasattr(p, "ds_id") for p in model.parameters())


@contextmanager
def last_hidden(model: nn.Module) -> Iterator[list[Tensor]]:
    """The last hidden states of the next forward pass of the model, taken from its own decoder."""
    taken: list[Tensor] = []
    body = model.get_decoder()  # type: ignore[operator]
    hook = body.register_forward_hook(lambda _module, _inputs, output: taken.append(output[0]))
    try:
        yield taken
    finally:
        hook.remove()


def no_logits(device: torch.device, is_sharded: bool) -> Tensor:
    """`logits_to_keep` for none: the model's own forward then makes a (rows, 0, vocab) product.

    Of a sharded head it makes one position: a DTensor cannot be empty in between.
    """
    return torch.zeros(int(is_sharded), dtype=torch.long, device=device)
