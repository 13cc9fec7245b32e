"""Hooks on layers that treat tokens alone, which split their weights' gradient by the task of the token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sftloss.tasks.gradients.hooks import Following

_SUM_ERROR = 0.05  # of the norm: bfloat16 activations err by less, a missing token or module by more

Take = Callable[[int, Iterable[tuple[int, Tensor]]], None]
"""A receiver of a parameter's index and the gradients of one use of it, task by task."""


@dataclass(frozen=True)
class Layer:
    """A layer with followed weights.

    Attributes:
        module: The layer.
        indices: By name of the weight, its index into the list of parameters.
    """

    module: nn.Module
    indices: Mapping[str, int]


@dataclass(frozen=True)
class Layers:
    """Every layer to follow, and the parameters in order with their names."""

    layers: Sequence[Layer]
    parameters: Sequence[nn.Parameter]
    names: Sequence[str]


def layers_of(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Layers:
    """Find the layer of each parameter."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            raise ValueError(f"TaskGradients: {name} is a batch norm, which mixes the tokens of tasks.")
    index = {id(p): i for i, p in enumerate(parameters)}
    names = {id(p): name for name, p in model.named_parameters(remove_duplicate=False)}
    users: list[list[str]] = [[] for _ in parameters]
    layers = []
    for where, module in model.named_modules():
        indices = {key: index[id(p)] for key, p in module._parameters.items() if p is not None and id(p) in index}
        for key, i in indices.items():
            users[i].append(f"{where}.{key}")
            if not _is_known(module):
                raise ValueError(
                    f"TaskGradients: {where}.{key} belongs to a {type(module).__name__}; nn.Linear (and so LoRA), "
                    "nn.Embedding and norms over the last axis can be followed. Leave it out of parameters, or give "
                    "losses to add()."
                )
        if indices:
            layers.append(Layer(module, indices))
    for parameter, owners in zip(parameters, users, strict=True):
        if len(owners) != 1:
            listed = ", ".join(owners) or "no module of the model"
            raise ValueError(f"TaskGradients: a weight of shape {tuple(parameter.shape)} belongs to {listed}.")
    return Layers(layers, parameters, [names[id(p)] for p in parameters])


def _is_known(module: nn.Module) -> bool:
    """Whether the layer treats each token alone. Model families have RMS norms of their own, all over the last axis."""
    return type(module) in (nn.Linear, nn.Embedding, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")


@contextmanager
def capturing(layers: Layers, take: Take, ids: Tensor, *, verify: bool) -> Iterator[None]:
    """Place hooks for one forward and backward pass, and remove them afterwards, whatever happens."""
    check = _Check(layers, take)
    receiver, places = check.take if verify else take, _Places(ids)
    layer_of = {layer.module: layer for layer in layers.layers}

    def split(module: nn.Module, inputs: Tensor, delta: Tensor) -> None:
        parts = _Parts(inputs.flatten(0, delta.dim() - 2), delta.reshape(-1, delta.shape[-1]), places.of(delta))
        if type(module) is nn.Linear:
            _split_linear(layer_of[module], receiver, parts)
        else:
            with following.closed():
                _rerun(layer_of[module], receiver, parts)

    following = Following(split)
    # a parameter's own hook has the gradient before any reduction over ranks
    handles = [p.register_hook(partial(check.compare, i)) for i, p in enumerate(layers.parameters) if verify]
    try:
        with following.placed(layer_of):
            yield
    finally:
        for handle in handles:
            handle.remove()
    if following.is_waiting:
        raise ValueError("TaskGradients: a forward pass was followed and no backward pass; run both within capture.")
    if check.wrong:
        raise ValueError(
            f"TaskGradients: the tasks' gradients of {check.wrong[0]} do not add up to its gradient; something "
            "(a fused kernel?) passes its module by. Give losses to add() instead."
        )


@dataclass
class _Check:
    """Sums of the tasks' gradients of each parameter, to be compared with autograd's own gradient."""

    layers: Layers
    receiver: Take
    sums: dict[int, Tensor] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def take(self, i: int, parts: Iterable[tuple[int, Tensor]]) -> None:
        gradients = list(parts)
        total = torch.stack([gradient for _, gradient in gradients]).sum(0)
        self.sums[i] = total if i not in self.sums else self.sums[i] + total
        self.receiver(i, gradients)

    def compare(self, i: int, gradient: Tensor) -> None:
        expected = gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32))
        error = expected if i not in self.sums else self.sums.pop(i) - expected
        if float(error.norm()) > _SUM_ERROR * float(expected.norm()):
            self.wrong.append(self.layers.names[i])


class _Places:
    """Where each task's tokens are, computed once for each shape of activations; tokens of no task are
    task -1, the last row of what collects them.
    """

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids
        self.places: dict[tuple[tuple[int, ...], torch.device], list[tuple[int, Tensor]]] = {}

    def of(self, activations: Tensor) -> list[tuple[int, Tensor]]:
        shape = tuple(activations.shape[:-1])
        if (shape, activations.device) not in self.places:
            ids = self.ids
            if ids.shape == shape[: ids.dim()]:  # of each row, or of each token of several heads
                ids = ids.reshape(*ids.shape, *[1] * (len(shape) - ids.dim())).expand(shape)
            if ids.numel() != torch.Size(shape).numel():
                raise ValueError(
                    f"TaskGradients: a layer has {shape} tokens, task_ids have shape {tuple(self.ids.shape)}; give "
                    "one a row or one a token, in the model's own layout."
                )
            flat = ids.reshape(-1)
            self.places[shape, activations.device] = [
                (int(task), (flat == task).nonzero()[:, 0].to(activations.device)) for task in flat.unique()
            ]
        return self.places[shape, activations.device]


class _Parts(NamedTuple):
    """Inputs of a layer and gradients of its outputs, a row a token, and the rows of each task."""

    inputs: Tensor
    delta: Tensor
    where: list[tuple[int, Tensor]]


def _split_linear(layer: Layer, take: Take, parts: _Parts) -> None:
    a, rows, where = parts
    exact = torch.promote_types(layer.module.weight.dtype, torch.float32)  # type: ignore[arg-type]
    if "weight" in layer.indices:
        take(layer.indices["weight"], ((task, rows[at].to(exact).T @ a[at].to(exact)) for task, at in where))
    if "bias" in layer.indices:
        take(layer.indices["bias"], ((task, rows[at].to(exact).sum(0)) for task, at in where))


def _rerun(layer: Layer, take: Take, parts: _Parts) -> None:
    """Run a norm or an embedding, which is cheap, once more on each task's tokens."""
    gradients: list[tuple[int, tuple[Tensor, ...]]] = []
    with torch.enable_grad():
        for task, at in parts.where:
            fresh = {name: p.detach().requires_grad_() for name, p in layer.module.named_parameters()}
            output = torch.func.functional_call(layer.module, fresh, (parts.inputs[at],))
            wanted = [fresh[name] for name in layer.indices]
            gradients.append((task, torch.autograd.grad(output, wanted, parts.delta[at])))
    for place, i in enumerate(layer.indices.values()):
        take(i, [(task, of_task[place]) for task, of_task in gradients])
