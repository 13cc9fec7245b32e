"""Blocks of logits in two Triton kernels: one reads the numbers of a block, the other writes its gradient.

Each kernel does in one pass what `plain.py` does in several. Both take the bare product `h W^T` and apply bias, scale
and softcap in registers. The arithmetic has the dtype of the sums, float32 or better. One program owns a row, or a
piece of one: without atomics the same input gives the same bits. Offsets are 64-bit. Nothing waits for the device.

They are tested in Triton's interpreter and compiled for several GPUs. No GPU has run them yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from sftloss.statistics.backends import rows
from sftloss.statistics.backends.further import add_order, add_tempered, has_further, local_ids, take_candidates
from sftloss.statistics.backends.plain import Chunk, Keep, LogitBlock
from sftloss.statistics.backends.rows import GradientFormula, RowGradient, RowNumbers, Sums, present
from sftloss.statistics.head import Head
from sftloss.statistics.plan import Buffers
from sftloss.statistics.products import logits as products

_BLOCK = 4096  # columns a program holds at once: 16 KiB of float32 in the registers of 8 warps
_FAR = tl.constexpr(rows.FAR)


@dataclass
class TritonBackend:
    """Triton kernels on a GPU, for one call."""

    head: Head
    dtype: torch.dtype
    product: torch.dtype
    vocab_size: int | Tensor
    is_device: bool = True

    @classmethod
    def of(cls, hidden: Tensor, head: Head) -> TritonBackend:
        dtype = products.compute_dtype(hidden)
        # the dtype of the inputs, or autocast's; products are summed in float32
        product = torch.promote_types(hidden.dtype, head.weight.dtype)
        if torch.is_autocast_enabled(hidden.device.type):
            product = torch.get_autocast_dtype(hidden.device.type)
        product = dtype if dtype == torch.float64 else product
        return cls(head, dtype, product, products.vocabulary(head, dtype)[1])

    def read(self, chunk: Chunk, columns: slice, sums: Sums, buffers: Buffers, keep: Keep) -> LogitBlock:
        block, further = self.recompute(chunk, columns, sums.m, buffers, keep), has_further(sums)
        before = sums.m.clone() if further else sums.m
        if block.value.shape[0]:
            five = (sums.m, sums.exp, sums.target, sums.exp_z, sums.exp_sq, sums.z, sums.count)
            _read[(block.value.shape[0],)](*self._inputs(block), *five, **self._options(block))
        if further:
            z, _ = self._logits(block)
            take_candidates(z, self.head.start + columns.start, sums)
            add_order(self._without_target(z, block), sums)
            add_tempered(z.sub_(sums.m[:, None]), before - sums.m, sums)
        return block

    def recompute(self, chunk: Chunk, columns: slice, m: Tensor, buffers: Buffers, keep: Keep) -> LogitBlock:
        tokens, width, vocab = chunk.hidden.shape[0], columns.stop - columns.start, self.head.weight.shape[0]
        z = buffers.take("z", tokens, vocab)[:, columns] if keep.is_whole else buffers.take("z", tokens, width)
        products.product(chunk.hidden, self.head, columns, z)
        out = None if self.product == self.dtype else buffers.take("out", tokens, width, self.product)
        return LogitBlock(chunk, columns, z, out, None, m)

    def write(self, block: LogitBlock, numbers: RowNumbers, grad: RowGradient) -> Tensor:
        out, formula = (
            block.value if block.out is None else block.out,
            GradientFormula.of(numbers, grad, self.vocab_size),
        )
        tokens, columns = out.shape
        further = self._further(block, numbers, grad, formula)  # before its place is written over
        place = out if further is None else block.value  # a sum is rounded once
        if tokens:
            seven: list[Tensor | None] = [formula.m, formula.inverse, formula.scale, formula.target]
            seven += [formula.entropy, formula.squared, formula.constant]
            values = (None if value is None else value.contiguous() for value in seven)
            grid = (tokens, triton.cdiv(columns, _width(columns)))
            _write[grid](*self._inputs(block), place, place.stride(0), *values, **self._options(block))
        return out if further is None else torch.add(place, further, out=out)

    def _logits(self, block: LogitBlock) -> tuple[Tensor, Tensor | None]:
        """Return a copy of a block as logits, and their slope under a softcap."""
        z = block.value.clone()
        slope = None if self.head.softcap is None else torch.empty_like(z)
        products.finish_logits(z, self.head, block.columns, slope)
        return z, slope

    def _without_target(self, z: Tensor, block: LogitBlock) -> Tensor:
        inside, column = local_ids(block.chunk.targets[:, None], self.head.start + block.columns.start, z.shape[1])
        return z.scatter_(1, column, torch.where(inside, float("-inf"), z.gather(1, column)))

    def _further(
        self, block: LogitBlock, numbers: RowNumbers, grad: RowGradient, formula: GradientFormula
    ) -> Tensor | None:
        """Return what the second temperature and the candidates add to the gradient of a block, None if nothing."""
        if grad.tempered is None and grad.candidates is None:
            return None
        z, slope = self._logits(block)
        dz = self._without_target(z, block).sub_(formula.m[:, None])
        if formula.tempered is None:
            dz.zero_()
        else:
            dz.mul_(present(formula.rate)[:, None]).exp_().mul_(formula.tempered[:, None])
        if grad.candidates is not None:
            inside, column = local_ids(present(numbers.ids), self.head.start + block.columns.start, dz.shape[1])
            dz.scatter_add_(1, column, torch.where(inside, grad.candidates, 0.0))
        return dz if slope is None else dz.mul_(slope)

    def _inputs(self, block: LogitBlock) -> tuple[Tensor | int | None, ...]:
        """Return what both kernels read: the product (its rows may be spaced, its columns not), bias and targets."""
        bias = None if self.head.bias is None else self.head.bias.detach()[block.columns].contiguous()
        start = self.head.start + block.columns.start
        return block.value, block.value.stride(0), bias, block.chunk.targets, start

    def _options(self, block: LogitBlock) -> dict[str, float]:
        columns, cap = block.value.shape[1], self.head.softcap or 0.0
        return {"SCALE": self.head.scale, "CAP": cap, "COLUMNS": columns, "BLOCK": _width(columns), "num_warps": 8}


def _width(columns: int) -> int:
    return min(_BLOCK, int(triton.next_power_of_2(columns)))


@triton.jit
def _logits(product, bias, ids, inside, like, SCALE: tl.constexpr, CAP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Logits of one row and their slope in the product before the scale; -inf beyond the last column."""
    x = tl.load(product + ids, mask=inside, other=0.0).to(like.dtype)
    if bias is not None:
        x += tl.load(bias + ids, mask=inside, other=0.0).to(like.dtype)
    if SCALE != 1.0:
        x *= SCALE
    slope = x
    if CAP > 0.0:
        # tanh from the side on which exp does not overflow
        far = tl.exp(-2.0 * tl.abs(x) / CAP)
        tanh = (1.0 - far) / (1.0 + far)
        tanh = tl.where(x < 0, -tanh, tanh)
        x = CAP * tanh
        slope = 1.0 - tanh * tanh
    return tl.where(inside, x, float("-inf")), slope


@triton.jit
def _read(  # type: ignore[no-untyped-def]
    product,
    stride,
    bias,
    targets,
    start,
    m_out,
    exp_out,
    target_out,
    exp_z_out,
    exp_sq_out,
    z_out,
    count_out,
    SCALE: tl.constexpr,
    CAP: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add one row of a block to its sums; those that are None are not computed."""
    row = tl.program_id(0).to(tl.int64)
    product += row * stride
    y = tl.load(targets + row).to(tl.int64) - start
    m = tl.load(m_out + row)
    total = tl.load(exp_out + row)
    # the target's own logit never enters a sum; where this block does not hold it, another does
    holds = (y >= 0) & (y < COLUMNS)
    # not "_", which the loop would carry on from a number to a block
    own, _own_slope = _logits(product, bias, y, holds, m, SCALE, CAP)
    target = tl.where(holds, own, tl.load(target_out + row))
    exp_z = m if exp_z_out is None else tl.load(exp_z_out + row)
    exp_sq = m if exp_sq_out is None else tl.load(exp_sq_out + row)
    z = m if z_out is None else tl.load(z_out + row)
    count = m if z_out is None else tl.load(count_out + row)
    for left in range(0, COLUMNS, BLOCK):
        ids = left + tl.arange(0, BLOCK)
        x, _ = _logits(product, bias, ids, ids < COLUMNS, m, SCALE, CAP)
        x = tl.where(ids == y, float("-inf"), x)
        higher = tl.maximum(m, tl.max(x))
        drop = m - higher
        shrink = tl.exp(drop)
        x -= higher
        e = tl.exp(x)
        if z_out is not None:
            finite = x > float("-inf")
            z += count * drop + tl.sum(tl.where(finite, x, 0.0))
            count += tl.sum(finite.to(tl.int32)).to(m.dtype)
        if exp_z_out is not None:
            moved = tl.where(total > 0, drop * total, 0.0)
            exp_z = shrink * (exp_z + moved) + tl.sum(e * tl.where(x > _FAR, x, _FAR))
        if exp_sq_out is not None:
            exp_sq = shrink * shrink * exp_sq + tl.sum(e * e)
        total = shrink * total + tl.sum(e)
        m = higher
    tl.store(m_out + row, m)
    tl.store(exp_out + row, total)
    tl.store(target_out + row, target)
    if exp_z_out is not None:
        tl.store(exp_z_out + row, exp_z)
    if exp_sq_out is not None:
        tl.store(exp_sq_out + row, exp_sq)
    if z_out is not None:
        tl.store(z_out + row, z)
        tl.store(count_out + row, count)


@triton.jit
def _write(  # type: ignore[no-untyped-def]
    product,
    stride,
    bias,
    targets,
    start,
    out,
    out_stride,
    m_in,
    inverse_in,
    scale_in,
    target_in,
    entropy_in,
    squared_in,
    constant_in,
    SCALE: tl.constexpr,
    CAP: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the gradient of a piece of one row by its formula; the terms that are None are zero."""
    row = tl.program_id(0).to(tl.int64)
    ids = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = ids < COLUMNS
    m = tl.load(m_in + row)
    x, slope = _logits(product + row * stride, bias, ids, inside, m, SCALE, CAP)
    is_finite = x > float("-inf")
    y = tl.load(targets + row).to(tl.int64) - start
    # the target's own logit may be far above m; its gradient is known
    x = tl.where(ids == y, float("-inf"), x - m)
    e = tl.exp(x)
    bracket = tl.load(scale_in + row)
    if entropy_in is not None:
        bracket -= tl.load(entropy_in + row) * tl.where(x > _FAR, x, _FAR)
    if squared_in is not None:
        bracket += tl.load(squared_in + row) * e
    dz = e * bracket * tl.load(inverse_in + row)
    if constant_in is not None:
        dz += tl.where(is_finite, tl.load(constant_in + row), 0.0)
    dz = tl.where(ids == y, tl.load(target_in + row), dz)
    if CAP > 0.0:
        dz *= slope
    tl.store(out + row * out_stride + ids, dz.to(out.dtype.element_ty), mask=inside)
