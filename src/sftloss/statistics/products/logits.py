"""Matrix products between hidden states and the head: the logits, in blocks, in the dtype of the products."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sftloss.statistics.head import Head
from sftloss.statistics.sharded import total

_WITHOUT_FLOAT64 = ("mps",)
_CAST_ROWS = 4096  # rows of a low-precision weight held as float32 at a time: 12 MiB at 768 columns


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """Return the dtype of the statistics: float32, or float64 for float64."""
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype in which a loss is summed: float64, or float32 on a device without it."""
    return torch.float32 if device.type in _WITHOUT_FLOAT64 else torch.float64


def multiply(out: Tensor, a: Tensor, b: Tensor, *, beta: float = 0.0, alpha: float = 1.0) -> None:
    """Write beta out + alpha a b into `out`, summed in the precision of `out` where that is the higher one."""
    if torch.promote_types(a.dtype, out.dtype) != out.dtype:
        assert beta == 0, "a sum in lower precision than its factors loses digits"
        out.copy_(torch.mm(a, b).mul_(alpha))
    elif out.is_cuda and a.dtype != out.dtype:
        torch.addmm(out, a, b, out_dtype=out.dtype, beta=beta, alpha=alpha, out=out)
    else:
        out.addmm_(a.to(out.dtype), b.to(out.dtype), beta=beta, alpha=alpha)


def factor_blocks(head: Head, dtype: torch.dtype, columns: slice) -> Iterator[tuple[slice, list[tuple[slice, Tensor]]]]:
    """Yield the factors of some columns of the logits in `dtype`: uncopied and at once, or cast some rows at a time."""
    step = columns.stop - columns.start if head.weight.dtype == dtype else _CAST_ROWS
    for start in range(columns.start, columns.stop, step):
        rows = slice(start, min(start + step, columns.stop))
        yield rows, [(read, factor.detach()[rows].to(dtype)) for read, factor in head.factors]


def product(hidden: Tensor, head: Head, columns: slice, out: Tensor) -> None:
    """Write the bare product of the hidden states with some columns of the head into `out`."""
    for rows, factors in factor_blocks(head, hidden.dtype, columns):
        part = out[:, rows.start - columns.start : rows.stop - columns.start]
        for read, factor in factors:
            multiply(part, hidden[:, read], factor.t(), beta=float(read.start > 0))


def project(hidden: Tensor, head: Head, columns: slice, out: Tensor, slope: Tensor | None = None) -> None:
    """Write some columns of the logits into `out`, and d(capped)/d(uncapped) into `slope` where it is given."""
    product(hidden, head, columns, out)
    finish_logits(out, head, columns, slope)


def finish_logits(out: Tensor, head: Head, columns: slice, slope: Tensor | None = None) -> None:
    """Turn the bare product into the logits, in place: bias, scale, softcap; `slope` as in :func:`project`."""
    if head.bias is not None:
        out += head.bias.detach()[columns].to(out.dtype)
    if head.scale != 1.0:
        out *= head.scale
    if head.softcap is None:
        return
    out.div_(head.softcap).tanh_()
    if slope is not None:
        torch.square(out, out=slope).neg_().add_(1.0)
    out *= head.softcap


def target_logits(hidden: Tensor, head: Head, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Return each token's logit of its own target, from one row of the head; the same on every rank of a shard."""
    local = (targets - head.start).long()
    inside, at = (local >= 0) & (local < head.weight.shape[0]), local.clamp(0, head.weight.shape[0] - 1)
    parts = [(hidden[:, read].to(dtype) * factor.detach()[at].to(dtype)).sum(dim=1) for read, factor in head.factors]
    z = sum(parts[1:], start=parts[0])
    if head.bias is not None:
        z = z + head.bias.detach()[at].to(dtype)
    z = z * head.scale
    if head.softcap is not None:
        z = head.softcap * torch.tanh(z / head.softcap)
    z = torch.where(inside, z, float("-inf"))
    if head.shard is not None:
        torch.distributed.all_reduce(z, torch.distributed.ReduceOp.MAX, group=head.shard.group)
    return z


def vocabulary(head: Head, dtype: torch.dtype) -> tuple[Tensor | None, int | Tensor]:
    """Return which columns are in the vocabulary (1 and 0; None for all) and how many, without a wait for a device."""
    if head.bias is None or head.softcap is not None:
        return None, head.vocab
    is_finite = (head.bias.detach() > float("-inf")).to(dtype)
    return is_finite, total(is_finite.sum(), head.shard)
