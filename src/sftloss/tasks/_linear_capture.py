"""Hooks on linear maps that split their weight gradient by the task of the token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_SUM_ERROR = 0.05  # of the norm: bfloat16 activations err by less, a missing token or module by more


@dataclass(frozen=True)
class Owner:
    """A linear map with followed weights: indices into the list of parameters, None for one that is not followed."""

    module: nn.Linear
    weight: int | None
    bias: int | None


@dataclass(frozen=True)
class Owners:
    """Every map to watch, and the parameters in order."""

    each: Sequence[Owner]
    parameters: Sequence[nn.Parameter]
    names: Sequence[str]


def owners_of(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Owners:
    """Finds who uses each parameter.

    Raises:
        ValueError: If a parameter is not one plain ``nn.Linear``'s alone, or a layer mixes rows.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            raise ValueError(f"TaskGradients: {name} is a batch norm, which mixes the tokens of tasks.")
    index = {id(p): i for i, p in enumerate(parameters)}
    names = {id(p): name for name, p in model.named_parameters(remove_duplicate=False)}
    users: dict[int, list[str]] = {}
    each = []
    for where, module in model.named_modules():
        own = {key: index[id(p)] for key, p in module._parameters.items() if p is not None and id(p) in index}
        for key, i in own.items():
            users.setdefault(i, []).append(f"{where}.{key}")
            if type(module) is not nn.Linear:
                raise ValueError(
                    f"TaskGradients: {where}.{key} belongs to a {type(module).__name__}; only nn.Linear (and so LoRA) "
                    "can be followed. Leave it out of parameters, or give losses to add()."
                )
        if own and type(module) is nn.Linear:
            each.append(Owner(module, own.get("weight"), own.get("bias")))
    for i in range(len(parameters)):
        if len(users.get(i, [])) != 1:
            told = ", ".join(users.get(i, [])) or "no module of the model"
            raise ValueError(f"TaskGradients: a weight of shape {tuple(parameters[i].shape)} belongs to {told}.")
    return Owners(each, parameters, [names[id(p)] for p in parameters])


@contextmanager
def capturing(owners: Owners, buffers: Sequence[Tensor], ids: Tensor, *, verify: bool) -> Iterator[None]:
    """Hooks in place for one forward and backward pass; gone afterwards, whatever happens."""
    before = [buffer.sum(0) for buffer in buffers] if verify else []
    truth: dict[int, Tensor] = {}
    handles = [owner.module.register_forward_hook(_watch(owner, buffers, _Places(ids))) for owner in owners.each]
    if verify:
        # a parameter's own hook sees the gradient before any reduction over ranks
        handles += [p.register_hook(_adding(truth, i)) for i, p in enumerate(owners.parameters)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    for i, start in enumerate(before):
        found, expected = buffers[i].sum(0) - start, truth.get(i)
        if expected is None:
            continue
        if float((found - expected).norm()) > _SUM_ERROR * float(expected.norm()):
            raise ValueError(
                f"TaskGradients: the tasks' gradients of {owners.names[i]} do not add up to its gradient; something "
                "(a fused kernel?) passes its module by. Give losses to add() instead."
            )


def _adding(truth: dict[int, Tensor], i: int) -> Callable[[Tensor], None]:
    def add(gradient: Tensor) -> None:
        # a copy: autograd may make this very tensor .grad, which DDP then averages in place
        exact = gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32), copy=True)
        truth[i] = exact if i not in truth else truth[i] + exact

    return add


class _Places:
    """Where each task's tokens are, once for each shape of activations; tokens of no task are the last slot's."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids
        self.found: dict[tuple[tuple[int, ...], torch.device], list[tuple[int, Tensor]]] = {}

    def of(self, activations: Tensor) -> list[tuple[int, Tensor]]:
        shape = tuple(activations.shape[:-1])
        if (shape, activations.device) not in self.found:
            ids = self.ids
            if ids.dim() == 1 and len(shape) > 1 and shape[0] == ids.numel():
                ids = ids[:, None].expand(shape[0], _size(shape[1:]))
            if ids.numel() != _size(shape):
                raise ValueError(
                    f"TaskGradients: a layer sees {shape} tokens, task_ids have shape {tuple(self.ids.shape)}; give "
                    "one a row or one a token, in the model's own layout."
                )
            flat = ids.reshape(-1)
            self.found[shape, activations.device] = [
                (int(task), (flat == task).nonzero()[:, 0].to(activations.device)) for task in flat.unique()
            ]
        return self.found[shape, activations.device]


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _watch(owner: Owner, buffers: Sequence[Tensor], places: _Places) -> Callable[..., None]:
    def after_forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not output.requires_grad:  # the first of two forwards of a reentrant checkpoint
            return
        where, a = places.of(inputs[0]), inputs[0].detach()

        def on_gradient(delta: Tensor) -> None:
            rows, columns = delta.reshape(-1, delta.shape[-1]), a.reshape(-1, a.shape[-1])
            for task, index in where:
                part = rows[index]
                if owner.weight is not None:
                    to = buffers[owner.weight]
                    to[task] += part.to(to.dtype).T @ columns[index].to(to.dtype)
                if owner.bias is not None:
                    to = buffers[owner.bias]
                    to[task] += part.to(to.dtype).sum(0)

        output.register_hook(on_gradient)

    return after_forward
