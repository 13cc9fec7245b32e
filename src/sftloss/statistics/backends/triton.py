"""The elementwise work between the matrix products, in two kernels: a block's numbers in one read, then its gradient.

What `cpu.py` does in several passes over a block of logits, each kernel does in one. Both take the bare product
`h W^T`; bias, scale and softcap are applied on the way, in registers, both times. The arithmetic is that of the sums
(float32 or better) whatever the product's dtype. One program owns a row, or a piece of one: no atomics, so the same
input gives the same bits; offsets are 64-bit; nothing waits for the device.

Tested in Triton's interpreter, and compiled for devices that are not here; none has run them yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import triton
import triton.language as tl
from torch import Tensor

from sftloss.statistics.backends.cpu import _FAR, Sums
from sftloss.statistics.backends.rows import Formula

if TYPE_CHECKING:
    from sftloss.statistics.head import Head

_BLOCK = 4096  # columns a program holds at once: 16 KiB of float32 in the registers of 8 warps
FAR = tl.constexpr(_FAR)


@dataclass(frozen=True)
class Block:
    """Which columns of a head a block of products holds, and the targets of its rows."""

    head: Head
    columns: slice
    targets: Tensor

    @property
    def start(self) -> int:
        return self.head.start + self.columns.start

    @property
    def bias(self) -> Tensor | None:
        return None if self.head.bias is None else self.head.bias.detach()[self.columns].contiguous()


def read(product: Tensor, block: Block, sums: Sums) -> None:
    """Add a block to the sums, in place. The block is left as it is.

    Args:
        product: ``(tokens, columns)``, h W^T; rows may be spaced, columns not.
        block: What it holds.
        sums: Of the columns seen so far.
    """
    tokens, columns = product.shape
    if tokens == 0:
        return
    bias = block.bias
    optional = [value if value is not None else sums.m for value in (sums.exp_z, sums.exp_sq, sums.z, sums.seen)]
    _read[(tokens,)](
        product,
        product.stride(0),
        product if bias is None else bias,
        block.targets,
        block.start,
        sums.m,
        sums.exp,
        sums.target,
        *optional,
        HAS_BIAS=bias is not None,
        SCALE=block.head.scale,
        CAP=block.head.softcap or 0.0,
        ENTROPY=sums.exp_z is not None,
        COLLISION=sums.exp_sq is not None,
        MEAN=sums.z is not None,
        COLUMNS=columns,
        BLOCK=_width(columns),
        num_warps=8,
    )


def write(product: Tensor, out: Tensor, block: Block, formula: Formula) -> Tensor:
    """The gradient in the bare product, from the product; returns `out`.

    Args:
        product: As `read` had it.
        out: Of the same shape in any dtype; may be `product` itself.
        block: What it holds.
        formula: What becomes of each row.
    """
    tokens, columns = product.shape
    if tokens == 0:
        return out
    bias = block.bias
    numbers = (
        formula.m,
        formula.inverse,
        formula.scale,
        formula.target,
        *(formula.m if value is None else value for value in (formula.entropy, formula.squared, formula.each)),
    )
    width = _width(columns)
    _write[(tokens, triton.cdiv(columns, width))](
        product,
        product.stride(0),
        out,
        out.stride(0),
        product if bias is None else bias,
        block.targets,
        block.start,
        *(value.contiguous() for value in numbers),
        HAS_BIAS=bias is not None,
        SCALE=block.head.scale,
        CAP=block.head.softcap or 0.0,
        ENTROPY=formula.entropy is not None,
        COLLISION=formula.squared is not None,
        MEAN=formula.each is not None,
        COLUMNS=columns,
        BLOCK=width,
        num_warps=8,
    )
    return out


def _width(columns: int) -> int:
    return min(_BLOCK, triton.next_power_of_2(columns))


@triton.jit
def _logits(product, bias, ids, inside, like, HAS_BIAS: tl.constexpr, SCALE: tl.constexpr, CAP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Logits of one row and their slope in the product before the scale; -inf beyond the last column."""
    x = tl.load(product + ids, mask=inside, other=0.0).to(like.dtype)
    if HAS_BIAS:
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
    seen_out,
    HAS_BIAS: tl.constexpr,
    SCALE: tl.constexpr,
    CAP: tl.constexpr,
    ENTROPY: tl.constexpr,
    COLLISION: tl.constexpr,
    MEAN: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    product += row * stride
    y = tl.load(targets + row).to(tl.int64) - start
    m = tl.load(m_out + row)
    total = tl.load(exp_out + row)
    # the target's own logit never enters a sum; where this block does not hold it, another does
    holds = (y >= 0) & (y < COLUMNS)
    # not "_", which the loop would carry on from a number to a block
    own, _own_slope = _logits(product, bias, y, holds, m, HAS_BIAS, SCALE, CAP)
    target = tl.where(holds, own, tl.load(target_out + row))
    exp_z = tl.load(exp_z_out + row)
    exp_sq = tl.load(exp_sq_out + row)
    z = tl.load(z_out + row)
    seen = tl.load(seen_out + row)
    for left in range(0, COLUMNS, BLOCK):
        ids = left + tl.arange(0, BLOCK)
        x, _ = _logits(product, bias, ids, ids < COLUMNS, m, HAS_BIAS, SCALE, CAP)
        x = tl.where(ids == y, float("-inf"), x)
        higher = tl.maximum(m, tl.max(x))
        drop = m - higher
        shrink = tl.exp(drop)
        x -= higher
        e = tl.exp(x)
        if MEAN:
            finite = x > float("-inf")
            z += seen * drop + tl.sum(tl.where(finite, x, 0.0))
            seen += tl.sum(finite.to(tl.int32)).to(m.dtype)
        if ENTROPY:
            moved = tl.where(total > 0, drop * total, 0.0)
            exp_z = shrink * (exp_z + moved) + tl.sum(e * tl.where(x > FAR, x, FAR))
        if COLLISION:
            exp_sq = shrink * shrink * exp_sq + tl.sum(e * e)
        total = shrink * total + tl.sum(e)
        m = higher
    tl.store(m_out + row, m)
    tl.store(exp_out + row, total)
    tl.store(target_out + row, target)
    if ENTROPY:
        tl.store(exp_z_out + row, exp_z)
    if COLLISION:
        tl.store(exp_sq_out + row, exp_sq)
    if MEAN:
        tl.store(z_out + row, z)
        tl.store(seen_out + row, seen)


@triton.jit
def _write(  # type: ignore[no-untyped-def]
    product,
    stride,
    out,
    out_stride,
    bias,
    targets,
    start,
    m_in,
    inverse_in,
    scale_in,
    target_in,
    entropy_in,
    squared_in,
    each_in,
    HAS_BIAS: tl.constexpr,
    SCALE: tl.constexpr,
    CAP: tl.constexpr,
    ENTROPY: tl.constexpr,
    COLLISION: tl.constexpr,
    MEAN: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    ids = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = ids < COLUMNS
    m = tl.load(m_in + row)
    x, slope = _logits(product + row * stride, bias, ids, inside, m, HAS_BIAS, SCALE, CAP)
    is_finite = x > float("-inf")
    y = tl.load(targets + row).to(tl.int64) - start
    # the target's own logit may be far above m; its gradient is known
    x = tl.where(ids == y, float("-inf"), x - m)
    e = tl.exp(x)
    bracket = tl.load(scale_in + row)
    if ENTROPY:
        bracket -= tl.load(entropy_in + row) * tl.where(x > FAR, x, FAR)
    if COLLISION:
        bracket += tl.load(squared_in + row) * e
    dz = e * bracket * tl.load(inverse_in + row)
    if MEAN:
        dz += tl.where(is_finite, tl.load(each_in + row), 0.0)
    dz = tl.where(ids == y, tl.load(target_in + row), dz)
    if CAP > 0.0:
        dz *= slope
    tl.store(out + row * out_stride + ids, dz.to(out.dtype.element_ty), mask=inside)
