"""A head that is sharded, or has adapters, when the loss is attached: proved inside a forward pass of the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate

from sftloss.decoder.decoder import Decoder, _declared, _distance, _probe_ids
from sftloss.errors import ModelError
from sftloss.ranks import reduce_over_ranks
from sftloss.training.head.adapters import read_head


@dataclass
class Attempt:
    """What the declared forms of the head gave on this rank's columns, and where those columns lie."""

    hidden: list[Tensor]
    logits: list[Tensor] = field(default_factory=list)
    mesh: Any = None
    start: int = 0

    def read(self, output: nn.Module, forms: list[tuple[float, float | None]]) -> None:
        """Every form's logits of the hidden states the decoder has just given; the weight is whole rows only now."""
        self.mesh = getattr(output.weight, "device_mesh", None)
        for scale, softcap in forms:
            hidden, head = read_head(output, local_hidden(self.hidden[0]).flatten(0, 1), scale, softcap)
            self.start = head.start
            low_rank = None if head.low_rank is None else head.low_rank.to(head.weight.dtype)
            self.logits.append(replace(head, low_rank=low_rank).logits(hidden.to(head.weight.dtype)))


def prove_in_forward(model: Any, outer: nn.Module, output: nn.Module) -> tuple[float, float | None, Any]:
    """Scale, cap and tensor-parallel mesh of a head that can be read only while the model runs.

    Args:
        model: The transformers model.
        outer: What the user calls: FSDP2 gathers for the outermost module only.
        output: The head.

    Raises:
        ModelError: If no declared form gives the model's own logits.
    """
    name, forms = type(model).__name__, list(_declared(model.config))
    probe = Decoder(model, model, None, vocab_size=model.get_input_embeddings().num_embeddings)
    ids = _probe_ids(probe).view(2, 4).to(model.get_input_embeddings().weight.device)
    attempt = Attempt([])
    body = model.get_decoder().register_forward_hook(lambda _m, _i, out: attempt.hidden.append(out[0]))
    before = output.register_forward_pre_hook(lambda module, _inputs: attempt.read(module, forms))
    try:
        with _evaluating(outer):
            own = outer(input_ids=ids, use_cache=False).logits
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"attach: the head of {name} cannot be read: {str(error).splitlines()[0]}") from error
    finally:
        body.remove()
        before.remove()
        for module in outer.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # no backward pass will
    own = own.full_tensor() if isinstance(own, DTensor) else own
    for (scale, softcap), ours in zip(forms, attempt.logits, strict=True):
        if _farthest(ours, own.flatten(0, 1), attempt) <= 4 * max(torch.finfo(own.dtype).eps, 2.5e-6):
            return scale, softcap, attempt.mesh
    raise ModelError(
        f"attach: the logits of {name} are not the declared function of hidden states and head weight, so the loss "
        "cannot be fused with its head; where it is sharded, attach before that to see why."
    )


def local_hidden(hidden: Tensor) -> Tensor:
    """Hidden states as a plain tensor, the same on every tensor-parallel rank; the loss sums their gradient itself."""
    if not isinstance(hidden, DTensor):
        return hidden
    every = [Replicate()] * hidden.device_mesh.ndim
    return hidden.redistribute(placements=every).to_local(grad_placements=every)


def _farthest(ours: Tensor, own: Tensor, attempt: Attempt) -> float:
    """The largest distance on any rank: all must choose the same form. Models give whole logits, or their columns."""
    if own.shape[-1] != ours.shape[-1]:
        own = own[:, attempt.start : attempt.start + ours.shape[-1]]
    distance = torch.tensor(_distance(ours, own), device=ours.device)
    if attempt.mesh is not None:
        reduce_over_ranks(distance, "max", attempt.mesh.get_group())
    return float(distance)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
