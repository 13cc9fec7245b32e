"""What is done to a block of logits in place: read its numbers, then turn it into its gradient.

Both run on a whole row (one pass) or on a block of the vocabulary (two passes, shards): the sums of blocks merge
exactly. The target's own logit is taken out first and never enters a sum.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass

import torch
from torch import Tensor

from ._rows import RowGradient, Rows, have, lowest

_FAR = -1e4  # exp(-1e4) is 0 in float64 too; keeps 0 * (-inf) out of the entropy
KERNEL_DEVICES = ["cuda"]  # where `_triton.py` does this file's work; its tests add "cpu", for Triton's interpreter


def uses_kernels(tensor: Tensor) -> bool:
    """Whether the kernels of `_triton.py` run where the tensor is."""
    return tensor.device.type in KERNEL_DEVICES and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@dataclass
class Sums:
    """Running sums over the vocabulary seen so far, centred at the running maximum m of the rest."""

    m: Tensor
    exp: Tensor
    target: Tensor  # the target's logit, -inf until its block has been seen
    exp_z: Tensor | None  # sum exp(z - m) (z - m)
    exp_sq: Tensor | None  # sum exp(z - m)^2
    z: Tensor | None  # sum of finite z - m
    seen: Tensor | None  # how many logits that sum holds

    @classmethod
    def start(cls, tokens: int, needed: set[str], like: Tensor) -> Sums:
        def zeros() -> Tensor:
            return torch.zeros(tokens, dtype=like.dtype, device=like.device)

        return cls(
            m=torch.full((tokens,), lowest(like.dtype), dtype=like.dtype, device=like.device),
            exp=zeros(),
            target=torch.full((tokens,), float("-inf"), dtype=like.dtype, device=like.device),
            exp_z=zeros() if "rest_entropy" in needed else None,
            exp_sq=zeros() if "rest_collision" in needed else None,
            z=zeros() if "mean" in needed else None,
            seen=zeros() if "mean" in needed else None,
        )

    def rows(self, vocab_size: int | Tensor) -> Rows:
        """Finish the sums. A row whose only finite logit is the target's is centred there, with S = tiny."""
        total = self.exp.clamp(min=torch.finfo(self.exp.dtype).tiny)
        self.m = torch.where((self.exp == 0) & (self.target > float("-inf")), self.target, self.m)
        log_sum = total.log()
        mean = self.z
        if mean is not None:
            target = self.target - self.m
            mean = (mean + torch.where(target > float("-inf"), target, 0.0)) / vocab_size
        return Rows(
            m=self.m,
            target=self.target - self.m,
            log_sum=log_sum,
            rest_entropy=None if self.exp_z is None else log_sum - self.exp_z / total,
            rest_collision=None if self.exp_sq is None else self.exp_sq / total / total,
            mean=mean,
        )


def take_target(z: Tensor, targets: Tensor, start: int, sums: Sums) -> Tensor:
    """Move the target's logit out of the block, where the block holds it, leaving -inf behind; returns its column."""
    local = targets - start
    inside = (local >= 0) & (local < z.shape[1])
    column = local.clamp(0, z.shape[1] - 1)[:, None]
    value = z.gather(1, column)
    sums.target = torch.where(inside, value[:, 0], sums.target)
    z.scatter_(1, column, torch.where(inside[:, None], float("-inf"), value))
    return column


def add_block(z: Tensor, sums: Sums, hole: Tensor, has_banned: bool, spare: Tensor | None = None) -> Tensor:
    """Add a block to the sums; returns exp(z - m): in place of z, or in `spare`, and then z keeps z - m.

    Args:
        z: ``(tokens, block)``, the targets taken out. Overwritten.
        sums: Updated in place.
        hole: ``(tokens, 1)``, the column `take_target` returned.
        has_banned: Whether the bias takes columns out of the vocabulary, so that z holds other -inf than the targets'.
        spare: A second buffer, needed for the entropy's gradient.
    """
    m = torch.maximum(sums.m, z.amax(dim=1))
    drop = sums.m - m
    z -= m[:, None]
    if sums.z is not None and sums.seen is not None:
        total, count = _finite_sum(z, hole, has_banned)
        sums.z += sums.seen * drop + total
        sums.seen += count
    keep = z
    if spare is not None or sums.exp_z is not None:
        z.clamp_(min=_FAR)
        keep = torch.exp(z, out=spare) if spare is not None else torch.exp(z)
    else:
        z.exp_()
    shrink = drop.exp()
    if sums.exp_z is not None:
        # the clamped zeros of taken-out and banned columns add 0 * _FAR
        sums.exp_z = shrink * (sums.exp_z + torch.where(sums.exp > 0, drop * sums.exp, 0.0)) + _dot(keep, z)
    if sums.exp_sq is not None:
        sums.exp_sq = shrink.square() * sums.exp_sq + _dot(keep, keep)
    sums.exp = shrink * sums.exp + keep.sum(dim=1)
    sums.m = m
    return keep


def to_gradient(
    exp: Tensor, shifted: Tensor | None, rows: Rows, grad: RowGradient, column: Tensor | None, vocab_size: int | Tensor
) -> Tensor:
    """Turn exp(z - m) into the gradient in z off the target, in place; the target's own entry is left to `put_target`.

    Args:
        exp: ``(tokens, block)`` exp(z - m), 0 at the target. Overwritten with the result.
        shifted: z - m of the same block (overwritten), needed where the entropy's or collision's gradient is asked.
        rows, grad: The numbers of each row and the gradient in them.
        column: ``(block,)`` 1 where the column is in the vocabulary, None where all are.
        vocab_size: Number of finite logits.
    """
    inverse = torch.exp(-rows.log_sum)
    scale = grad.log_sum
    if grad.rest_entropy is not None:
        scale = scale - grad.rest_entropy * (have(rows.rest_entropy) - rows.log_sum)
    if grad.rest_collision is not None:
        scale = scale - 2 * grad.rest_collision * have(rows.rest_collision)
    if grad.rest_entropy is None and grad.rest_collision is None:
        exp *= (scale * inverse)[:, None]
    else:
        assert shifted is not None
        shifted *= 0 if grad.rest_entropy is None else -grad.rest_entropy[:, None]
        shifted += scale[:, None]
        if grad.rest_collision is not None:
            shifted.addcmul_(exp, (2 * grad.rest_collision * inverse)[:, None])
        exp *= shifted
        exp *= inverse[:, None]
    if grad.mean is not None:
        each = grad.mean / vocab_size
        if column is None:
            exp += each[:, None]
        else:
            exp.addr_(each, column)
    return exp


def put_target(dz: Tensor, targets: Tensor, start: int, grad: RowGradient, vocab_size: int | Tensor) -> None:
    """Write the target's own gradient where the block holds it."""
    local = targets - start
    inside = (local >= 0) & (local < dz.shape[1])
    column = local.clamp(0, dz.shape[1] - 1)[:, None]
    value = grad.target if grad.mean is None else grad.target + grad.mean / vocab_size
    dz.scatter_(1, column, torch.where(inside[:, None], value[:, None], dz.gather(1, column)))


def _finite_sum(z: Tensor, hole: Tensor, has_banned: bool) -> tuple[Tensor, Tensor]:
    """Sum and number of the finite entries of each row; z is left as it was."""
    if has_banned:
        finite = z > float("-inf")
        return torch.where(finite, z, 0.0).sum(dim=1), finite.sum(dim=1)
    # only the hole can be -inf: close it for the sum rather than copy the block
    value = z.gather(1, hole)
    is_open = value == float("-inf")
    total = z.scatter_(1, hole, torch.where(is_open, 0.0, value)).sum(dim=1)
    z.scatter_(1, hole, value)
    return total, z.shape[1] - is_open[:, 0].long()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Row-wise inner product without a product tensor."""
    return torch.bmm(a[:, None, :], b[:, :, None])[:, 0, 0]
