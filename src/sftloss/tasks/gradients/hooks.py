"""Hooks that hand each layer's input to a function together with the gradient of the layer's output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Receive = Callable[[nn.Module, Tensor, Tensor], None]
"""A receiver of a layer, its first input, and the gradient of its output."""


class Following:
    """One forward and backward pass whose layers are followed, gradient checkpointing included.

    Attributes:
        receive: Called in the backward pass, once for each call of a layer.
        starts_graph: Whether an output without a gradient gets one, because the weights are frozen.
        is_open: Whether hooks act now. Those on a graph that is kept stay closed after the pass.
        is_waiting: Whether there have been activations and none of their gradients.
        calls: By layer, how often the forward pass called it; what a checkpoint computes again is not counted.
    """

    def __init__(self, receive: Receive, *, starts_graph: bool = False) -> None:
        self.receive, self.starts_graph = receive, starts_graph
        self.is_open, self.is_waiting, self._is_backward = True, False, False
        self.calls: Counter[nn.Module] = Counter()

    @contextmanager
    def placed(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Place the hooks, and remove them afterwards, whatever happens."""
        handles = [module.register_forward_hook(self._after_forward, with_kwargs=True) for module in modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.is_open = False

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Follow nothing meanwhile."""
        self.is_open = False
        try:
            yield
        finally:
            self.is_open = True

    def _after_forward(
        self, module: nn.Module, inputs: tuple[Tensor, ...], named: Mapping[str, Tensor], output: Tensor
    ) -> Tensor:
        if not self.is_open or output.numel() == 0:
            return output
        self.calls[module] += not self._is_backward
        # no gradient in the first of two forwards of a reentrant checkpoint
        if self.starts_graph and torch.is_grad_enabled() and not output.requires_grad:
            output = output.detach().requires_grad_().clone()  # no leaf: it may be changed in place
        if not output.requires_grad:
            return output
        layer_input = (*inputs, *named.values())[0].detach()
        self.is_waiting = True

        def on_gradient(delta: Tensor) -> None:
            if self.is_open:
                self.is_waiting, self._is_backward = False, True
                self.receive(module, layer_input, delta)

        output.register_hook(on_gradient)
        return output
