"""Reading and writing a block for the further statistics, in PyTorch on any device.

The largest logits and those of the candidates are kept as they are, so blocks and shards merge without rescaling. The
sum at the second temperature is centred at the running maximum m of the rest, as every other sum is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sftloss.statistics.backends.rows import Sums, present

_PIECE = 2**17  # numbers held at a time on a processor: 512 KiB of float32, which stay in a core's cache


def has_further(sums: Sums) -> bool:
    """Whether these sums hold any number beyond the five."""
    return any(value is not None for value in (sums.rate, sums.top, sums.above, sums.ids))


def add_order(z: Tensor, sums: Sums) -> None:
    """Add a block of raw logits to the largest ones and to the number above the target's; -inf at the target."""
    if sums.top is not None:
        best = largest(z, sums.top.shape[1])
        sums.top.copy_(torch.cat([sums.top, best], dim=1).topk(sums.top.shape[1], dim=1).values)
    if sums.above is not None:
        sums.above += (z > present(sums.own)[:, None]).sum(dim=1)


def largest(z: Tensor, k: int) -> Tensor:
    """Return the k largest of each row, in no order: those of the k groups of columns with the largest maxima."""
    k = min(k, z.shape[1])
    size = math.isqrt(z.shape[1] // k)
    if size < 2:
        return z.topk(k, dim=1, sorted=False).values
    groups = z.shape[1] // size
    whole = z[:, : groups * size].unflatten(1, (groups, size))
    at = whole.amax(dim=2).topk(k, dim=1, sorted=False).indices
    inside = whole.gather(1, at[:, :, None].expand(-1, -1, size)).flatten(1)
    return torch.cat([inside, z[:, groups * size :]], dim=1).topk(k, dim=1, sorted=False).values


def add_tempered(shifted: Tensor, drop: Tensor, sums: Sums) -> None:
    """Add a block of z - m to the sum at the second temperature; `drop` is what m fell short of before, <= 0."""
    if sums.tempered is None:
        return
    rate = present(sums.rate)
    sums.tempered.mul_((drop * rate).exp())
    step = shifted.shape[1]
    if shifted.device.type == "cpu":
        step = max(1, _PIECE // max(shifted.shape[0], 1))
    buffer = torch.empty_like(shifted[:, :step])
    for left in range(0, shifted.shape[1], step):
        part = shifted[:, left : left + step]
        sums.tempered += torch.mul(part, rate[:, None], out=buffer[:, : part.shape[1]]).exp_().sum(dim=1)


def take_candidates(z: Tensor, start: int, sums: Sums) -> None:
    """Pick the candidates' logits from a block of raw logits whose first column has the id `start`."""
    if sums.candidates is not None:
        inside, local = local_ids(present(sums.ids), start, z.shape[1])
        torch.where(inside, z.gather(1, local), sums.candidates, out=sums.candidates)


def local_ids(ids: Tensor, start: int, width: int) -> tuple[Tensor, Tensor]:
    """Return whether a block of `width` columns holds each id, and its column there (any column where not)."""
    local = ids - start
    return (local >= 0) & (local < width), local.clamp(0, width - 1)


def further_numbers(z: Tensor, rest: Tensor, targets: Tensor, m: Tensor, sums: Sums) -> dict[str, Tensor | None]:
    """Return the further numbers of whole rows, differentiable: the definition. `rest` is z, -inf at the target."""
    sums.own = z.detach().gather(1, targets.long()[:, None])[:, 0]
    add_order(rest.detach(), sums)
    numbers: dict[str, Tensor | None] = {"rate": sums.rate, "above": sums.above, "ids": sums.ids}
    numbers["top"] = None if sums.top is None else sums.top - m[:, None]
    if sums.rate is not None:
        total = ((rest - m[:, None]) * sums.rate[:, None]).exp().sum(dim=1)
        numbers["tempered"] = total.clamp(min=torch.finfo(z.dtype).tiny).log()
    if sums.ids is not None:
        inside, local = local_ids(sums.ids, 0, z.shape[1])
        numbers["candidates"] = torch.where(inside, z.gather(1, local), float("-inf")) - m[:, None]
    return numbers
