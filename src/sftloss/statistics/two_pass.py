"""Two passes: tiles of the vocabulary, recomputed in backward. Four products, memory near the inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sftloss.statistics.backends.cpu import Sums, add_block, cached, exp_of, take_target, to_gradient, uses_kernels
from sftloss.statistics.backends.rows import Formula, RowGradient, Rows, needs, row_gradient, statistics_of
from sftloss.statistics.boundary import first_order
from sftloss.statistics.definition import IGNORED
from sftloss.statistics.head import (
    Head,
    compute_dtype,
    factors_of,
    finite_columns,
    multiply,
    product_dtype,
    products,
    project,
)
from sftloss.statistics.plan import Plan, Room
from sftloss.statistics.sharded import Shard, merge, total


@dataclass(frozen=True)
class Request:
    """Everything of one call that is not differentiated."""

    targets: Tensor
    fields: tuple[str, ...]
    scale: float
    softcap: float | None
    plan: Plan
    shard: Shard | None = None

    def head(self, weight: Tensor, bias: Tensor | None, low_rank: Tensor | None) -> Head:
        return Head(weight, bias, self.scale, self.softcap, self.shard, low_rank)


class TwoPass(torch.autograd.Function):
    """(hidden, weight, bias, low_rank, request) -> the statistics of `request.fields`, each ``(tokens,)``."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, low_rank, request):  # type: ignore[no-untyped-def]
        head = request.head(weight, bias, low_rank)
        ctx.kept = kept = _Kept.of(request.targets, hidden)
        ctx.dtype = product_dtype(hidden, head)
        with torch.autocast(hidden.device.type, enabled=False):
            h, y = kept.take(hidden).to(ctx.dtype), kept.take(request.targets)
            rows = read_rows(h, head, y, needs(request.fields), request.plan)
        values = statistics_of(rows, request.fields)
        out = [kept.put(value) for value in values.values()]
        ctx.save_for_backward(hidden, weight, bias, low_rank, *[v for v in vars(rows).values() if v is not None])
        ctx.names = [name for name, value in vars(rows).items() if value is not None]
        ctx.request = request
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(v for v in out if not v.is_floating_point()))
        return tuple(out)

    @staticmethod
    @first_order("token_statistics")
    def backward(ctx, *upstream):  # type: ignore[no-untyped-def]
        hidden, weight, bias, low_rank, *numbers = ctx.saved_tensors
        rows, request, kept = Rows(**dict(zip(ctx.names, numbers, strict=True))), ctx.request, ctx.kept
        leaves = rows.leaves()
        with torch.enable_grad():
            values = statistics_of(leaves, request.fields)
        asked = [(values[n], kept.take(up)) for n, up in zip(request.fields, upstream, strict=True) if up is not None]
        if not asked:
            return None, None, None, None, None
        grad = row_gradient([value for value, _ in asked], [up for _, up in asked], leaves)
        head = request.head(weight, bias, low_rank)
        with torch.autocast(hidden.device.type, enabled=False):
            h, y = kept.take(hidden).to(ctx.dtype), kept.take(request.targets)
            d_h, *of_head = _gradients(h, head, request, (y, rows, grad), ctx.needs_input_grad)
        return None if d_h is None else kept.put(d_h.to(hidden.dtype)), *of_head, None


@dataclass(frozen=True)
class _Kept:
    """The rows whose target counts: picked out, or, where counting them would wait for the device, zeros in place."""

    counted: Tensor
    index: Tensor | None

    @classmethod
    def of(cls, targets: Tensor, hidden: Tensor) -> _Kept:
        counted = targets != IGNORED
        return cls(counted, None if uses_kernels(hidden) else torch.nonzero(counted)[:, 0])

    def take(self, value: Tensor) -> Tensor:
        return self._zeroed(value) if self.index is None else value[self.index]

    def put(self, value: Tensor) -> Tensor:
        if self.index is None:
            return self._zeroed(value)
        whole = value.new_zeros(self.counted.shape[0], *value.shape[1:])
        return whole.index_copy_(0, self.index, value)

    def _zeroed(self, value: Tensor) -> Tensor:
        return value.masked_fill(~(self.counted if value.ndim == 1 else self.counted[:, None]), 0)


def read_rows(hidden: Tensor, head: Head, targets: Tensor, needed: set[str], plan: Plan) -> Rows:
    """The numbers of every row, one sweep over the vocabulary for each super-chunk of tokens."""
    dtype, has_kernels = compute_dtype(hidden), uses_kernels(hidden)
    finite, vocab_size = finite_columns(head, dtype)
    vocab = head.weight.shape[0]
    height, width = plan.tile(hidden.shape[0], vocab, dtype.itemsize, is_device=has_kernels)
    parts, room = [], Room(hidden, dtype)
    for start in range(0, max(hidden.shape[0], 1), height):
        h, y = hidden[start : start + height], targets[start : start + height]
        sums = Sums.start(h.shape[0], needed, h.new_empty(0, dtype=dtype))
        for left in range(0, vocab, width):
            piece = slice(left, min(left + width, vocab))
            z = room.take("z", h.shape[0], piece.stop - left)
            if has_kernels:
                from sftloss.statistics.backends import triton as kernels

                products(h, factors_of(head, piece, h.dtype), z)
                kernels.read(z, kernels.Block(head, piece, y), sums)
                continue
            project(h, factors_of(head, piece, h.dtype), head, piece, z, None)
            hole = take_target(z, y, head.start + left, sums)
            add_block(z, sums, hole, finite is not None)
        parts.append(merge(sums, head.shard, y).rows(vocab_size))
    if len(parts) == 1:
        return parts[0]
    names = [name for name, value in vars(parts[0]).items() if value is not None]
    return Rows(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def _gradients(
    hidden: Tensor, head: Head, request: Request, tokens: tuple[Tensor, Rows, RowGradient], wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """In hidden, weight, bias and low_rank; each block of dW is written once for every super-chunk of tokens."""
    dtype = compute_dtype(hidden)
    finite, vocab_size = finite_columns(head, dtype)
    targets, formula, room = tokens[0], Formula.of(*tokens[1:], vocab_size), Room(hidden, dtype)
    vocab = head.weight.shape[0]
    height, width = request.plan.tile(hidden.shape[0], vocab, dtype.itemsize, is_device=uses_kernels(hidden))
    d_hidden = torch.zeros_like(hidden, dtype=dtype) if wanted[0] else None
    is_single = hidden.shape[0] <= height
    # with one super-chunk a block of dW is final when written, so no float32 copy of the whole is needed
    d_factors = [
        torch.zeros(factor.shape, dtype=factor.dtype if is_single else dtype, device=hidden.device) if want else None
        for (_, factor), want in zip(head.factors, (wanted[1], wanted[3]), strict=False)
    ]
    d_bias = torch.zeros(vocab, dtype=dtype, device=hidden.device) if wanted[2] else None
    for start in range(0, hidden.shape[0], height):
        part = slice(start, min(start + height, hidden.shape[0]))
        cut = (targets[part], formula.of_rows(part))
        for left in range(0, vocab, width):
            piece = slice(left, min(left + width, vocab))
            factors = factors_of(head, piece, hidden.dtype)
            dz = _tile_gradient(hidden[part], factors, head, piece, cut, finite, room)
            for (columns, factor), gradient in zip(factors, d_factors, strict=True):
                if d_hidden is not None:
                    multiply(d_hidden[part, columns], dz, factor, beta=1.0, alpha=head.scale)
                if gradient is not None:
                    _add_product(gradient[piece], dz, hidden[part, columns], head.scale, is_single)
            if d_bias is not None:
                d_bias[piece].add_(dz.sum(dim=0, dtype=dtype), alpha=head.scale)
    d_hidden = None if d_hidden is None else total(d_hidden, head.shard)
    d_weight, d_low_rank = (*d_factors, None)[:2]
    found = ((d_weight, head.weight), (d_bias, head.bias), (d_low_rank, head.low_rank))
    return d_hidden, *(None if g is None or like is None else g.to(like.dtype) for g, like in found)


def _add_product(out: Tensor, dz: Tensor, hidden: Tensor, scale: float, is_single: bool) -> None:
    if torch.promote_types(out.dtype, dz.dtype) != out.dtype:
        out.copy_(torch.mm(dz.t(), hidden).mul_(scale))
    else:
        multiply(out, dz.t(), hidden, beta=0.0 if is_single else 1.0, alpha=scale)


def _tile_gradient(hidden, factors, head, piece, tokens, finite, room):  # type: ignore[no-untyped-def]
    """The gradient in the raw product h W^T of one tile."""
    targets, formula = tokens
    shape = (hidden.shape[0], piece.stop - piece.start)
    z = room.take("z", *shape)
    if uses_kernels(hidden):
        from sftloss.statistics.backends import triton as kernels

        products(hidden, factors, z)
        out = z if hidden.dtype == z.dtype else room.take("spare", *shape, dtype=hidden.dtype)
        return kernels.write(z, out, kernels.Block(head, piece, targets), formula)
    slope = None if head.softcap is None else room.take("slope", *shape)
    project(hidden, factors, head, piece, z, slope)
    start = head.start + piece.start
    take_target(z, targets, start, Sums.start(hidden.shape[0], set(), z))
    spare = None if formula.is_plain else room.take("spare", *shape)
    for rows in cached(z):
        exp_of(z[rows].sub_(formula.m[rows, None]), None if spare is None else spare[rows])
    exp, shifted = (z, None) if spare is None else (spare, z)
    dz = to_gradient(exp, shifted, formula, None if finite is None else finite[piece], targets, start)
    return dz if slope is None else dz.mul_(slope)
