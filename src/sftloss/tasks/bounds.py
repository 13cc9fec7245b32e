"""Weights between bounds, and still of mean 1."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def bounded(
    weights: Float[Tensor, " tasks"], seen: Bool[Tensor, " tasks"], bounds: tuple[float, float]
) -> Float[Tensor, " tasks"]:
    """The weights ``clip(c * w, low, high)`` whose mean over the seen tasks is 1; c is found exactly.

    The mean is piecewise linear in c with a kink wherever a task enters or leaves its bounds, so c lies between two
    kinks and is interpolated. Weights within the bounds come back as they were; order is kept.

    Args:
        weights: ``>= 0``, mean 1 over the seen tasks.
        seen: Which tasks count; the others are returned as they are.
        bounds: Lowest and highest weight, ``0 < low <= 1 <= high``.
    """
    low, high = bounds
    safe = torch.where(seen, weights.clamp(min=torch.finfo(weights.dtype).tiny), 1)
    kinks = torch.cat([low / safe, high / safe]).sort().values

    def mean_at(c: Tensor) -> Tensor:
        return torch.where(seen, (c[:, None] * safe).clamp(low, high), 0).sum(1) / seen.sum().clamp(min=1)

    means = mean_at(kinks)
    right = (means < 1).sum().clamp(1, kinks.numel() - 1)
    a, b = kinks.gather(0, right[None] - 1), kinks.gather(0, right[None])
    at_a, at_b = means.gather(0, right[None] - 1), means.gather(0, right[None])
    rise = at_b - at_a
    c = torch.where(rise > 0, a + (b - a) * (1 - at_a) / torch.where(rise > 0, rise, 1), a)
    inside = ((weights >= low) & (weights <= high)) | ~seen
    return torch.where(seen & ~inside.all(), (c * safe).clamp(low, high), weights)
