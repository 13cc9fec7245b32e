"""Hooks on layers that treat tokens alone, which split their weights' gradient by the task of the token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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
    places = _Places(ids)
    receiver = check.take if verify else take
    handles = [layer.module.register_forward_hook(_after_forward(layer, receiver, places)) for layer in layers.layers]
    if verify:
        # a parameter's own hook has the gradient before any reduction over ranks
        handles += [p.register_hook(partial(check.compare, i)) for i, p in enumerate(layers.parameters)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        places.is_open = False
    if places.is_waiting:
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

    Attributes:
        is_open: Whether the pass goes on; hooks on a graph that was kept live longer.
        is_waiting: Whether there have been activations and none of their gradients.
    """

    def __init__(self, ids: Tensor) -> None:
        self.ids, self.is_open, self.is_waiting = ids, True, False
        self.places: dict[tuple[tuple[int, ...], torch.device], list[tuple[int, Tensor]]] = {}

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Follow nothing meanwhile."""
        self.is_open = False
        try:
            yield
        finally:
            self.is_open = True

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


def _after_forward(layer: Layer, take: Take, places: _Places) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # no gradient in the first of two forwards of a reentrant checkpoint; closed while a layer is run once more
        if not output.requires_grad or not places.is_open:
            return
        where, tokens = places.of(output), output.dim() - 1
        a = inputs[0].detach().flatten(0, tokens - 1)
        places.is_waiting = True

        def on_gradient(delta: Tensor) -> None:
            if not places.is_open:
                return
            places.is_waiting = False
            rows = delta.reshape(-1, delta.shape[-1])
            if type(module) is not nn.Linear:
                with places.closed():
                    _rerun(layer, take, [(task, a[at], rows[at]) for task, at in where])
                return
            exact = torch.promote_types(module.weight.dtype, torch.float32)
            if "weight" in layer.indices:
                take(layer.indices["weight"], ((task, rows[at].to(exact).T @ a[at].to(exact)) for task, at in where))
            if "bias" in layer.indices:
                take(layer.indices["bias"], ((task, rows[at].to(exact).sum(0)) for task, at in where))

        output.register_hook(on_gradient)

    return hook


def _rerun(layer: Layer, take: Take, parts: Iterable[tuple[int, Tensor, Tensor]]) -> None:
    """Run a norm or an embedding, which is cheap, once more on each task's tokens: ``(task, inputs, gradients)``."""
    gradients: list[tuple[int, tuple[Tensor, ...]]] = []
    with torch.enable_grad():
        for task, inputs, delta in parts:
            fresh = {name: p.detach().requires_grad_() for name, p in layer.module.named_parameters()}
            output = torch.func.functional_call(layer.module, fresh, (inputs,))
            gradients.append((task, torch.autograd.grad(output, [fresh[name] for name in layer.indices], delta)))
    for place, i in enumerate(layer.indices.values()):
        take(i, [(task, of_task[place]) for task, of_task in gradients])
