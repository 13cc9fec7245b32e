"""Sums and positions within segments of unknown number, without a device sync."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def check_flat(name: str, weights: Tensor, **others: Tensor) -> None:
    """Check that tensors are flat and of one length; only shapes are read, so there is no device sync."""
    if weights.dim() != 1:
        raise ValueError(f"{name}: expected flat tensors of shape (tokens,), got weights {tuple(weights.shape)}.")
    for what, tensor in others.items():
        if tensor.shape != weights.shape:
            raise ValueError(
                f"{name}: {what} has shape {tuple(tensor.shape)}, weights {tuple(weights.shape)}; they must be equal."
            )


def refuse_negative(name: str, weights: Tensor) -> None:
    """Check that weights on the CPU are not negative and have a finite sum; on a device nothing is read."""
    if weights.device.type != "cpu":
        return
    if not bool((weights >= 0).all()):
        raise ValueError(
            f"{name}: weights must be >= 0, and one is negative or NaN. Multiply signed rewards in afterwards "
            'and normalize by="sequences", "tokens" or "constant".'
        )
    if not bool(torch.isfinite(weights.sum(dtype=torch.float64))):
        raise ValueError(f"{name}: the weights add up to infinity; multiply all of them by one small factor.")


def exact_dtype(device: torch.device) -> torch.dtype:
    """Float64, in which sums of float32 weights come out the same in any order; float32 where a device lacks it."""
    return torch.float32 if device.type == "mps" else torch.float64


def dense_ids(segments: Int[Tensor, " tokens"]) -> Int[Tensor, " tokens"]:
    """Number the distinct ids 0, 1, ...; ids may be any integers. All padding (< 0) shares the id of the last slot.

    Sorting has an output of known size, unlike ``torch.unique``, so nothing waits for a device.
    """
    ordered, order = torch.sort(segments, stable=True)
    starts = torch.zeros_like(ordered)
    starts[1:] = (ordered[1:] != ordered[:-1]).long()
    dense = torch.empty_like(ordered).scatter_(0, order, starts.cumsum(0))
    return torch.where(segments < 0, segments.numel(), dense)


def segment_sums(values: Tensor, dense: Int[Tensor, " tokens"]) -> Tensor:
    """Sum over each segment, slot by slot, shape ``(tokens + 1,)``, float64; the last slot is padding's and stays 0."""
    dtype = exact_dtype(values.device)
    sums = torch.zeros(values.numel() + 1, dtype=dtype, device=values.device)
    sums.index_add_(0, dense, values.to(dtype))
    return torch.cat([sums[:-1], sums.new_zeros(1)])


def ranks_within(
    counted: Float[Tensor, " tokens"], dense: Int[Tensor, " tokens"]
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """For each token: how many counted tokens of its segment come before it, and how many there are."""
    order = torch.argsort(dense, stable=True)
    counts = segment_sums(counted, dense)
    before_in_order = counted.to(counts.dtype)[order].cumsum(0) - counted.to(counts.dtype)[order]
    before = torch.empty_like(before_in_order).scatter_(0, order, before_in_order)
    segment_start = counts.cumsum(0) - counts
    return before - segment_start[dense], counts[dense]
