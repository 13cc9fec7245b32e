"""Hooks on layers that treat tokens alone, which split their weights' gradient by the task of the token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_SUM_ERROR = 0.05  # of the norm: bfloat16 activations err by less, a missing token or module by more


@dataclass(frozen=True)
class Owner:
    """A layer with followed weights: by name, their indices into the list of parameters."""

    module: nn.Module
    own: Mapping[str, int]


@dataclass(frozen=True)
class Owners:
    """Every layer to watch, and the parameters in order."""

    each: Sequence[Owner]
    parameters: Sequence[nn.Parameter]
    names: Sequence[str]


def owners_of(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Owners:
    """Finds who uses each parameter.

    Raises:
        ValueError: If a parameter is not that of one layer of a known kind alone, or a layer mixes rows.
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
            if not _is_known(module):
                raise ValueError(
                    f"TaskGradients: {where}.{key} belongs to a {type(module).__name__}; nn.Linear (and so LoRA), "
                    "nn.Embedding and norms over the last axis can be followed. Leave it out of parameters, or give "
                    "losses to add()."
                )
        if own:
            each.append(Owner(module, own))
    for i in range(len(parameters)):
        if len(users.get(i, [])) != 1:
            told = ", ".join(users.get(i, [])) or "no module of the model"
            raise ValueError(f"TaskGradients: a weight of shape {tuple(parameters[i].shape)} belongs to {told}.")
    return Owners(each, parameters, [names[id(p)] for p in parameters])


def _is_known(module: nn.Module) -> bool:
    """Whether the layer treats each token alone. Families have RMS norms of their own, over the last axis all."""
    return type(module) in (nn.Linear, nn.Embedding, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")


Take = Callable[[int, Iterable[tuple[int, Tensor]]], None]
"""Gets a parameter's index and the gradients of one use of it, task by task."""


@contextmanager
def capturing(owners: Owners, take: Take, ids: Tensor, *, verify: bool) -> Iterator[None]:
    """Hooks in place for one forward and backward pass; gone afterwards, whatever happens."""
    check = _Check(owners, take)
    places = _Places(ids)
    given = check.take if verify else take
    handles = [owner.module.register_forward_hook(_watch(owner, given, places)) for owner in owners.each]
    if verify:
        # a parameter's own hook sees the gradient before any reduction over ranks
        handles += [p.register_hook(partial(check.compare, i)) for i, p in enumerate(owners.parameters)]
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


class _Check:
    """Holds the tasks' gradients of a parameter, added up, until autograd's own comes."""

    def __init__(self, owners: Owners, take: Take) -> None:
        self.owners, self._take = owners, take
        self.sums: dict[int, Tensor] = {}
        self.wrong: list[str] = []

    def take(self, i: int, parts: Iterable[tuple[int, Tensor]]) -> None:
        several = list(parts)
        found = torch.stack([part for _, part in several]).sum(0)
        self.sums[i] = found if i not in self.sums else self.sums[i] + found
        self._take(i, several)

    def compare(self, i: int, gradient: Tensor) -> None:
        expected = gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32))
        error = expected if i not in self.sums else self.sums.pop(i) - expected
        if float(error.norm()) > _SUM_ERROR * float(expected.norm()):
            self.wrong.append(self.owners.names[i])


class _Places:
    """Where each task's tokens are, once for each shape of activations; tokens of no task are the last slot's.

    Attributes:
        is_open: Whether the pass goes on; hooks on a graph that was kept live longer.
        is_waiting: Whether activations have been seen and none of their gradients.
    """

    def __init__(self, ids: Tensor) -> None:
        self.ids, self.is_open, self.is_waiting = ids, True, False
        self.found: dict[tuple[tuple[int, ...], torch.device], list[tuple[int, Tensor]]] = {}

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Nothing is followed meanwhile."""
        self.is_open = False
        try:
            yield
        finally:
            self.is_open = True

    def of(self, activations: Tensor) -> list[tuple[int, Tensor]]:
        shape = tuple(activations.shape[:-1])
        if (shape, activations.device) not in self.found:
            ids = self.ids
            if ids.shape == shape[: ids.dim()]:  # of each row, or of each token of several heads
                ids = ids.reshape(*ids.shape, *[1] * (len(shape) - ids.dim())).expand(shape)
            if ids.numel() != torch.Size(shape).numel():
                raise ValueError(
                    f"TaskGradients: a layer sees {shape} tokens, task_ids have shape {tuple(self.ids.shape)}; give "
                    "one a row or one a token, in the model's own layout."
                )
            flat = ids.reshape(-1)
            self.found[shape, activations.device] = [
                (int(task), (flat == task).nonzero()[:, 0].to(activations.device)) for task in flat.unique()
            ]
        return self.found[shape, activations.device]


def _watch(owner: Owner, take: Take, places: _Places) -> Callable[..., None]:
    def after_forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
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
                    _other_layer(owner, take, [(t, a[at], rows[at]) for t, at in where])
                return
            exact = torch.promote_types(module.weight.dtype, torch.float32)
            if "weight" in owner.own:
                take(owner.own["weight"], ((t, rows[at].to(exact).T @ a[at].to(exact)) for t, at in where))
            if "bias" in owner.own:
                take(owner.own["bias"], ((t, rows[at].to(exact).sum(0)) for t, at in where))

        output.register_hook(on_gradient)

    return after_forward


def _other_layer(owner: Owner, take: Take, parts: Sequence[tuple[int, Tensor, Tensor]]) -> None:
    """A norm or an embedding is cheap: it is run once more on each task's tokens, (task, inputs, gradients)."""
    found: list[tuple[int, tuple[Tensor, ...]]] = []
    with torch.enable_grad():
        for task, inputs, delta in parts:
            fresh = {name: p.detach().requires_grad_() for name, p in owner.module.named_parameters()}
            output = torch.func.functional_call(owner.module, fresh, (inputs,))
            found.append((task, torch.autograd.grad(output, [fresh[name] for name in owner.own], delta)))
    for place, i in enumerate(owner.own.values()):
        take(i, [(task, gradients[place]) for task, gradients in found])
