"""What autograd and the compiler meet at the edge of a fused loss."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch._compile import _disable_dynamo  # torch.compiler.disable, without a second of imports before the first call

Function = TypeVar("Function", bound=Callable[..., Any])


def not_traced(function: Function) -> Function:
    """Under ``torch.compile`` the graph ends before the call and goes on behind it; inside, chunks run as written."""
    return cast(Function, _disable_dynamo(function))


def first_order(who: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A backward pass that cannot be differentiated and says so when asked, before a penalty on it is silently lost.

    ``once_differentiable`` alone speaks only where the upstream gradient has a graph of its own; a gradient penalty
    made from ``loss.backward(create_graph=True)`` would come out as a constant.
    """

    def decorate(backward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(backward)
        def checked(ctx: Any, *upstream: Any) -> Any:
            if torch.is_grad_enabled():
                raise RuntimeError(
                    f"{who}: has no second derivatives, and backward was called with create_graph=True. Leave it out, "
                    "or take the objective of from_logits(logits, targets), which has them."
                )
            return backward(ctx, *upstream)

        return checked

    return decorate
