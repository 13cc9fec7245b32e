"""The gradient of a whole step, and the direction in which an optimizer moves for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sftloss.training.attachment import Attachment
from sftloss.training.gradients.norms import loss_of_batch
from sftloss.training.gradients.per_example import question_of
from sftloss.training.loss import Loss

_EPSILON = 1e-8  # of Adam


class Update(NamedTuple):
    """The gradient G of a loss and the direction u of the update for it, by name of the parameter."""

    gradient: Mapping[str, Tensor]
    direction: Mapping[str, Tensor]

    @property
    def decrease(self) -> float:
        """<G, u>."""
        return inner_product(self.gradient, self.direction)


def gradient_of(attachment: Attachment, batches: Iterable[Mapping[str, Any]], loss: Loss) -> dict[str, Tensor]:
    """Gradient of the batches' loss by name of the trained parameter. ``.grad`` stays as it is."""
    named = {name: p for name, p in attachment.model.named_parameters() if p.requires_grad}
    if not named:
        raise ValueError("additive_shares: no parameter of the model requires a gradient.")
    total: dict[str, Tensor] = {}
    for batch in batches:
        value = loss_of_batch(attachment, question_of(attachment, batch, loss))
        gradients = torch.autograd.grad(value, [*named.values()], allow_unused=True, materialize_grads=True)
        add_gradient(total, dict(zip(named, gradients, strict=True)))
    return total


def add_gradient(total: dict[str, Tensor], gradient: Mapping[str, Tensor]) -> None:
    """Add a gradient to a sum that begins empty, in float32 or better."""
    for name, value in gradient.items():
        if name in total:
            total[name] += value
        else:
            total[name] = value.to(torch.promote_types(value.dtype, torch.float32), copy=True)


def update_of(
    model: nn.Module, gradient: Mapping[str, Tensor], optimizer: str | Optimizer, scale: float = 1.0
) -> Update:
    """The update that an optimizer makes for a gradient, up to the learning rate and without weight decay.

    Args:
        model: The model.
        gradient: G by name of the parameter.
        optimizer: ``"sgd"``: u is G. ``"adam"``: u is the first step of Adam, G over its absolute value. An optimizer
            with the model's parameters: u is the step that it would take now, with its momentum, second moments and
            bias correction, and the proportions of its groups' learning rates. It stays as it is. A copy steps in
            float64. An optimizer that cannot compute in float64 steps from 0 in the parameter's dtype, which is exact
            where its step does not depend on the value of the parameter.
        scale: Factor of G where an optimizer steps, because its moments have a scale.

    Raises:
        ValueError: If the optimizer is neither, has none of the parameters, or a group has no learning rate.
    """
    if optimizer == "sgd":
        return Update(gradient, gradient)
    if optimizer == "adam":
        return Update(gradient, {name: g / (g.abs() + _EPSILON) for name, g in gradient.items()})
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"additive_shares: optimizer must be 'sgd', 'adam' or an optimizer, got {optimizer!r}.")
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):  # Accelerate's wrapper
        optimizer = inner
    names = {p: name for name, p in model.named_parameters() if name in gradient}
    if any(group["lr"] is None for group in optimizer.param_groups):
        raise ValueError(
            "additive_shares: the optimizer has lr=None; give it a learning rate, for transformers' Adafactor lr=1e-3 "
            "with relative_step=False."
        )
    fastest = max(float(group["lr"]) for group in optimizer.param_groups)
    direction = {name: torch.zeros_like(g) for name, g in gradient.items()}
    is_moved = False
    for group in optimizer.param_groups:
        rate = float(group["lr"]) if fastest else 1.0  # 0 at the start of a warm-up
        for p in group["params"]:
            if p in names:
                is_moved = True
                options = {**group, "lr": rate, "weight_decay": 0.0}
                moved = _moved(optimizer, options, p, gradient[names[p]] * scale)
                direction[names[p]] = (-moved / (fastest or 1.0)).to(gradient[names[p]].dtype)
    if not is_moved:
        raise ValueError("additive_shares: the optimizer has none of the model's trained parameters.")
    return Update(gradient, direction)


def _moved(optimizer: Optimizer, group: Mapping[str, Any], p: Tensor, gradient: Tensor) -> Tensor:
    """How far one step of a copy of the optimizer moves a copy of the parameter.

    The copy starts at the parameter's value, because Adafactor's step depends on it. In float64 the small difference
    of two weights keeps its digits. 8-bit optimizers have no float64; in bfloat16 the difference would round to 0, so
    they start at 0.
    """
    try:
        return _step_of_copy(optimizer, group, p.detach().double(), p, gradient)
    except (RuntimeError, TypeError, ValueError):
        return _step_of_copy(optimizer, group, torch.zeros_like(p, requires_grad=False), p, gradient).double()


def _step_of_copy(optimizer: Optimizer, group: Mapping[str, Any], start: Tensor, p: Tensor, gradient: Tensor) -> Tensor:
    """The difference that one step with the state of `p` makes to `start`, in its dtype."""
    weight, dtype = start.clone(), start.dtype
    weight.grad = gradient.to(dtype, copy=True)  # some steps change the gradient in place
    copies = {}
    for key, value in optimizer.state.get(p, {}).items():
        # a counter of steps stays float32, as fused kernels need it
        if isinstance(value, Tensor):
            is_moment = value.is_floating_point() and key != "step" and dtype == torch.float64
            value = value.to(dtype if is_moment else value.dtype, copy=True)
        copies[key] = value
    trial = object.__new__(type(optimizer))  # no second set of hooks, and none of the states of other parameters
    vars(trial).update(vars(optimizer))
    for hooks in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        vars(trial)[hooks] = {}
    trial.param_groups = [{**group, "params": [weight]}]
    trial.state = defaultdict(dict, {weight: copies} if copies else {})
    type(optimizer).step(trial)
    return weight - start


def inner_product(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Inner product of two gradients, in float64."""
    return float(sum((a[name].double() * b[name].double()).sum() for name in a))
