"""The kernels of sftloss; written by scripts/make_hub_kernel.py."""

import triton
import triton.language as tl

_BLOCK = 4096
_FAR = tl.constexpr(-10000.0)


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
