"""Squared norms of the gradients of one layer's weights by example, from its inputs and its outputs' gradients."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sftloss.training.gradients.layout import Layout

_ELEMENTS = 2**22  # of the gradients held at a time by the direct form
Call = tuple[Tensor, Tensor]
"""Inputs and gradients of the outputs of one call of a layer, flat: a row a position."""


def is_linear(module: nn.Module) -> bool:
    """Whether the layer is a matrix product: nn.Linear, or the transposed one of GPT-2."""
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"


def is_norm(module: nn.Module) -> bool:
    """Whether the layer is a norm over the last axis with a factor (and a bias) for each column."""
    return type(module) is nn.LayerNorm or type(module).__name__.endswith(("RMSNorm", "LayerNorm"))


def is_embedding(module: Any) -> bool:
    """Whether the layer looks up rows, perhaps with a constant factor, and nothing else changes their gradient."""
    is_known = type(module) is nn.Embedding or type(module).__name__.endswith("ScaledWordEmbedding")
    return is_known and module.max_norm is None and not module.scale_grad_by_freq and not module.sparse


def flat(values: Tensor, layout: Layout, *, features: int) -> Tensor | None:
    """Return ``(positions, ...)``, where a layer's tensor has the batch's rows and columns first; None otherwise.

    Args:
        values: Inputs or outputs' gradient of a layer.
        layout: The batch.
        features: Number of last axes that are no tokens.
    """
    rows, columns = layout.shape
    ahead = values.dim() - features
    if ahead >= 2 and values.shape[:2] == (rows, columns):
        return values.reshape(rows * columns, *values.shape[2:])
    return values if ahead == 1 and values.shape[0] == rows * columns else None


def linear_squares(calls: Sequence[Call], layout: Layout, names: Collection[str]) -> dict[str, Tensor]:
    """Squares of a matrix and a bias, in float64.

    The matrix takes the cheaper of two forms for each group of examples. With inputs ``a`` and gradients ``g``,
    ``(n, time, width)``: inner products between tokens, ``sum_ts <a_t, a_s> <g_t, g_s>``, or the gradient itself,
    ``sum_t g_t a_t^T``, of some examples at a time.
    """
    out = {name: torch.zeros(layout.count, dtype=torch.float64, device=layout.examples.device) for name in names}
    rows = layout.shape[0]
    for group in layout.groups:
        # calls of one layer lie behind each other in time
        g = _in_time([group.take_gradient(delta, rows) for _, delta in calls])
        if "bias" in out:
            out["bias"][group.examples] = _square(g.sum(1))
        if "weight" in out:
            a = _in_time([group.take(inputs, rows) for inputs, _ in calls])
            out["weight"][group.examples] = product_squares(a, g)
    return out


def product_squares(a: Tensor, g: Tensor) -> Tensor:
    """Squared norm of ``sum_t g_t a_t^T`` for each of n pairs of ``(n, time, width)``, in float64."""
    examples, time, p = a.shape
    q = g.shape[2]
    if time * (p + q) < p * q:
        return ((a @ a.mT) * (g @ g.mT)).sum((1, 2), dtype=torch.float64)
    step = max(1, _ELEMENTS // (p * q))
    squares = [_square(g[i : i + step].mT @ a[i : i + step]) for i in range(0, examples, step)]
    return torch.cat(squares)


def norm_squares(module: nn.Module, calls: Sequence[Call], layout: Layout, names: Collection[str]) -> dict[str, Tensor]:
    """Squares of the factors and the bias of a norm, in float64."""
    sums: dict[str, Tensor] = {}
    for inputs, delta in calls:
        parts = {"weight": delta * _normalized(module, inputs) if "weight" in names else None, "bias": delta}
        for name in names:
            part = parts[name]
            assert part is not None
            part = part.flatten(1, -2).sum(1) if part.dim() > 2 else part  # heads, if any
            sums[name] = sums.get(name, 0) + layout.sum(_exact(part))
    return {name: _square(value) for name, value in sums.items()}


def _normalized(module: nn.Module, inputs: Tensor) -> Tensor:
    """What the factors multiply: the output is linear in them, as ``x w`` or, in Gemma, ``x (1 + w)``."""
    if type(module) is nn.LayerNorm:
        normalized: Tensor = nn.functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)
        return normalized
    weight: Any = module.weight
    with torch.no_grad():
        at_one, at_zero = (
            torch.func.functional_call(module, {"weight": value}, (inputs,))
            for value in (torch.ones_like(weight), torch.zeros_like(weight))
        )
    difference: Tensor = at_one - at_zero
    return difference


def embedding_squares(module: Any, calls: Sequence[Call], layout: Layout) -> Tensor:
    """Squares of an embedding's rows by example, in float64."""
    keys = torch.cat([layout.examples * module.num_embeddings + ids for ids, _ in calls])
    delta = torch.cat([_exact(embedding_delta(module, *call)) for call in calls])
    is_real = torch.cat([layout.examples >= 0 for _ in calls])
    keys, delta = keys[is_real], delta[is_real]
    unique, place = keys.unique(return_inverse=True)
    summed = delta.new_zeros(len(unique), delta.shape[1]).index_add_(0, place, delta)
    squares = torch.zeros(layout.count, dtype=torch.float64, device=delta.device)
    return squares.index_add_(0, unique // module.num_embeddings, _square(summed))


def embedding_delta(module: Any, ids: Tensor, delta: Tensor) -> Tensor:
    """Gradient of the row that each position looks up; a padding row gets none."""
    scale = getattr(module, "embed_scale", None)
    if scale is not None:
        delta = delta * torch.as_tensor(scale, dtype=delta.dtype, device=delta.device)
    return delta if module.padding_idx is None else torch.where((ids == module.padding_idx)[:, None], 0.0, delta)


def _in_time(parts: list[Tensor]) -> Tensor:
    """``(n, time, width)``: heads, where there are any, and calls lie behind each other in time."""
    exact = [_exact(part.flatten(1, -2)) for part in parts]
    return exact[0] if len(exact) == 1 else torch.cat(exact, dim=1)


def _exact(values: Tensor) -> Tensor:
    """Return them in float32 or better, so that a sum over many tokens keeps its digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _square(values: Tensor) -> Tensor:
    """Sum of squares over all but the first axis, in float64."""
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=torch.float64)
    return norms.square()
