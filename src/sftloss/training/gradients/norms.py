"""Norm of each example's gradient from one backward pass that forms no gradient of a parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sftloss.loss import weighted_loss
from sftloss.statistics.products.head_signal import HeadSignal, Owners, head_signal
from sftloss.tasks.gradients.hooks import Following
from sftloss.training.attachment import Attachment, Opened
from sftloss.training.gradients.coverage import Followed, group_of
from sftloss.training.gradients.layers import (
    Call,
    embedding_delta,
    embedding_squares,
    flat,
    is_embedding,
    is_linear,
    linear_squares,
    norm_squares,
)
from sftloss.training.gradients.layout import Layout
from sftloss.training.loss import Loss


class Norms(NamedTuple):
    """Squares of the examples' gradients, ``(examples,)`` each in float64, by layer group; and their losses.

    Attributes:
        squares: By layer group.
        losses: Of the examples.
        uncovered: Names of parameters whose squares are missing.
        whole: By name of the parameter, the gradient of all examples together, where it was wanted.
    """

    squares: dict[str, Tensor]
    losses: Tensor
    uncovered: list[str]
    whole: dict[str, Tensor] = {}


class Question(NamedTuple):
    """A batch whose examples' gradients are wanted.

    Attributes:
        batch: The batch.
        loss: The loss.
        coefficients: c of each token, ``(tokens,)``.
        layout: Its examples.
    """

    batch: Mapping[str, Any]
    loss: Loss
    coefficients: Tensor
    layout: Layout


def norms_by_hooks(attachment: Attachment, layers: Followed, question: Question, *, has_whole: bool = False) -> Norms:
    """Follow one forward and one backward pass.

    The weights are frozen meanwhile, so that autograd forms the gradients of activations only. With `has_whole` they
    are not, and the pass also gives the gradient of all examples together.
    """
    capture = _Capture(layers, question)
    following = Following(capture.receive, starts_graph=True)
    capture.following = following
    batch = _with_positions(question.batch, layers)
    model = attachment.model
    modules = dict.fromkeys([*layers.layers, *_graph_starts(model)])
    whole: dict[str, Tensor] = {}
    with nullcontext() if has_whole else frozen(model), following.placed(modules):
        opened = attachment.open(batch, question.loss)
        signal = _head_signal(opened, layers, question, has_whole=has_whole)
        scale = _scale(signal.hidden)
        capture.rows = None if signal.rows is None else signal.rows * scale
        if has_whole:
            whole = _whole(model, opened, signal, scale)
        elif opened.states.requires_grad:
            opened.states.backward((signal.hidden * scale).to(opened.states.dtype))
        capture.finish()
    capture.squares = {name: squares / scale**2 for name, squares in capture.squares.items()}
    for tensor, square in signal.squares.items():
        capture.add(layers.head[tensor][0], square)
    losses = question.layout.sum(signal.losses)
    return Norms(capture.squares, losses, capture.uncovered, whole)


def _whole(model: nn.Module, opened: Opened, signal: HeadSignal, scale: float) -> dict[str, Tensor]:
    """Run the backward pass, and return the gradients of all trained parameters. ``.grad`` stays as it is."""
    head = opened.head
    tensors = (opened.states, head.weight, head.bias, head.low_rank)
    ends, upstream = [], []
    for tensor, value in zip(tensors, (signal.hidden, *signal.whole), strict=True):
        if tensor is not None and value is not None and tensor.requires_grad:
            ends.append(tensor)
            upstream.append((value * scale).to(tensor.dtype))
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(ends, [*named.values()], upstream, allow_unused=True, materialize_grads=True)
    wide = (gradient.to(torch.promote_types(gradient.dtype, torch.float32)) for gradient in gradients)
    return {name: gradient / scale for name, gradient in zip(named, wide, strict=True)}


def _scale(gradient: Tensor) -> float:
    """The power of 2 that brings the largest to about 1: in float16, which ends at 6e-8, small ones would vanish."""
    largest = float(gradient.abs().max()) if gradient.numel() else 0.0
    return 2.0 ** -math.frexp(largest)[1] if 0 < largest < math.inf else 1.0


def norms_by_loop(
    attachment: Attachment,
    question: Question,
    examples: Iterable[int] | None = None,
    names: Collection[str] | None = None,
) -> Norms:
    """Run one forward and one backward pass for each example: right for every model, and slow.

    Args:
        attachment, question: As for :func:`norms_by_hooks`.
        examples: The examples; by default all.
        names: The parameters whose gradients are formed; by default all that are trained.
    """
    layout, model = question.layout, attachment.model
    named = {n: p for n, p in model.named_parameters() if p.requires_grad and (names is None or n in names)}
    starts = {id(p) for module in _graph_starts(model) for p in module.parameters() if p.requires_grad}
    device = layout.examples.device
    squares = {group_of(name): torch.zeros(layout.count, dtype=torch.float64, device=device) for name in named}
    losses = torch.zeros(layout.count, dtype=torch.float64, device=device)
    leaves: dict[str, Tensor] = {name: p.detach().requires_grad_() for name, p in named.items()}

    def in_place_of(name: str, p: Tensor) -> Tensor:
        if name in leaves or not p.requires_grad:
            return leaves.get(name, p)
        stand_in: Tensor = p.detach().requires_grad_(id(p) in starts)
        return stand_in

    # a reentrant checkpoint knows no torch.autograd.grad, and the gradients of the model's own weights stay as they are
    with replaced(model, in_place_of):
        for example in range(layout.count) if examples is None else examples:
            row = int(layout.rows[example])
            part = rows_of(question.batch, [row], layout.shape[0])
            columns = slice(row * layout.shape[1], (row + 1) * layout.shape[1])
            c = torch.where(layout.examples[columns] == example, question.coefficients[columns], 0.0)
            scale = _scale(c)
            value = loss_of_batch(attachment, question._replace(batch=part, coefficients=c * scale))
            losses[example] = value.detach().double() / scale
            if value.requires_grad:
                value.backward()
            for name, leaf in leaves.items():
                if leaf.grad is not None:
                    squares[group_of(name)][example] += (leaf.grad.double() / scale).square().sum()
                    leaf.grad = None
    return Norms(squares, losses, [])


def loss_of_batch(attachment: Attachment, question: Question) -> Tensor:
    """The batch's part of the loss, with a graph."""
    opened, function = attachment.open(question.batch, question.loss), question.loss.function
    device = opened.head.weight.device
    extras = {name: value.to(device) for name, value in opened.tokens.extras.items()}
    c, targets = question.coefficients.to(device), opened.tokens.targets.to(device)
    value, _ = weighted_loss(opened.states, opened.head, targets, c, function, extras=extras)
    return value


def rows_of(batch: Mapping[str, Any], rows: list[int], count: int) -> dict[str, Any]:
    """Some rows of a batch of `count` rows."""
    return {
        name: value[rows] if isinstance(value, Tensor) and value.dim() and value.shape[0] == count else value
        for name, value in batch.items()
    }


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter of the model requires a gradient inside."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


@contextmanager
def replaced(model: nn.Module, make: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Tensors in the place of the model's parameters; every layer that shares one gets the same tensor."""
    made: dict[int, Tensor] = {}
    for name, p in model.named_parameters():
        made[id(p)] = make(name, p)
    places = [(module, key, p) for module in model.modules() for key, p in module._parameters.items() if p is not None]
    try:
        for module, key, p in places:
            del module._parameters[key]
            setattr(module, key, made[id(p)])
        yield
    finally:
        for module, key, p in places:
            if key in vars(module):
                delattr(module, key)
            setattr(module, key, p)  # an RNN also keeps its parameters in a list


def _with_positions(batch: Mapping[str, Any], layers: Followed) -> Mapping[str, Any]:
    """Position ids of every row: a table of positions read once for all rows has no gradient by example."""
    if not layers.has_positions or batch.get("position_ids") is not None:
        return batch
    ids: Tensor = batch["input_ids"]
    return {**batch, "position_ids": torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)}


def _graph_starts(model: nn.Module) -> list[nn.Module]:
    """The embedding, where checkpoints need an input with a gradient."""
    if not any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return []
    return [model.get_input_embeddings()]  # type: ignore[operator]


def _head_signal(opened: Opened, layers: Followed, question: Question, *, has_whole: bool) -> HeadSignal:
    device = opened.head.weight.device
    extras = {name: value.to(device) for name, value in opened.tokens.extras.items()}
    ids = question.batch["input_ids"].reshape(-1) if layers.tied is not None else None
    return head_signal(
        opened.states,
        opened.head,
        opened.tokens.targets.to(device),
        question.coefficients.to(device),
        question.loss.function,
        Owners(question.layout.examples.to(device), question.layout.count, ids),
        wanted=tuple(layers.head),
        extras=extras,
        has_whole=has_whole,
    )


class _Capture:
    """Receives inputs and gradients of layers, and adds up the squares as soon as a layer's calls are complete."""

    following: Following

    def __init__(self, layers: Followed, question: Question) -> None:
        self.layers, self.layout, self.question = layers, question.layout, question
        self.squares: dict[str, Tensor] = {}
        self.uncovered: list[str] = []
        self.rows: Tensor | None = None
        self._calls: dict[nn.Module, list[Call]] = {}

    def add(self, name: str, squares: Tensor) -> None:
        """Add the squares of one parameter to its layer group."""
        group = group_of(name)
        self.squares[group] = self.squares[group] + squares if group in self.squares else squares

    def receive(self, module: nn.Module, inputs: Tensor, delta: Tensor) -> None:
        """Take one call of a layer."""
        if module not in self.layers.layers:
            return
        a = flat(inputs, self.layout, features=0 if is_embedding(module) else 1)
        g = flat(delta, self.layout, features=1)
        if a is None or g is None:
            self.uncovered += [n for n in self.layers.layers[module].values() if n not in self.uncovered]
            return
        peers = self.layers.peers[module]
        calls = self._calls.setdefault(peers[0], [])
        calls.append((a, g))
        if len(calls) == sum(self.following.calls[peer] for peer in peers):
            self._finish_layer(peers[0])

    def finish(self) -> None:
        """Take layers of which some calls got no gradient."""
        for module in list(self._calls):
            self._finish_layer(module)

    @torch.no_grad()
    def _finish_layer(self, module: nn.Module) -> None:
        calls, names = self._calls.pop(module), self.layers.layers[module]
        # a bfloat16 pass under autocast must not round the products of the squares too
        with self.following.closed(), torch.autocast(self.layout.examples.device.type, enabled=False):
            if is_embedding(module):
                self._add_embedding(module, calls, names["weight"])
                return
            parts = linear_squares(calls, self.layout, names) if is_linear(module) else None
            parts = norm_squares(module, calls, self.layout, names) if parts is None else parts
        for key, squares in parts.items():
            self.add(names[key], squares)

    def _add_embedding(self, module: nn.Module, calls: list[Call], name: str) -> None:
        self.add(name, embedding_squares(module, calls, self.layout))
        if module is not self.layers.tied:
            return
        ids = self.question.batch["input_ids"].reshape(-1)
        for looked_up, delta in calls:
            if self.rows is None or not torch.equal(looked_up, ids.to(looked_up.device)):
                self.uncovered.append(name)
                return
            # the square of a sum of two has twice their inner product
            product = embedding_delta(module, looked_up, delta) * self.rows.to(delta.device)
            product = product.sum(1, dtype=torch.float64)
            self.add(name, 2 * self.layout.sum(product))
