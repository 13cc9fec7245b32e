"""What is done to a block of logits in place: read its numbers, then turn it into its gradient.

Both run on a whole row (one pass) or on a block of the vocabulary (two passes, shards): the sums of blocks merge
exactly. The target's own logit is taken out first and never enters a sum.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sftloss.statistics.backends.rows import Formula, Rows, lowest

_FAR = -1e4  # exp(-1e4) is 0 in float64 too; keeps 0 * (-inf) out of the entropy
_CACHE_BYTES = 2 * 2**20  # of a block that one thread goes over several times while it is in the thread's cache
KERNEL_DEVICES = ["cuda"]  # where `triton.py` does this file's work; its tests add "cpu", for Triton's interpreter


def uses_kernels(tensor: Tensor) -> bool:
    """Whether the kernels of `backends/triton.py` run where the tensor is."""
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

    def of(self, rows: slice) -> Sums:
        """Some rows of them, as views."""
        return Sums(*(None if value is None else value[rows] for value in vars(self).values()))  # type: ignore[arg-type]

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


def cached(block: Tensor) -> Iterator[slice]:
    """Rows to go over together: on a processor as many as stay in its caches over several passes, elsewhere all.

    Where the columns are contiguous instead, the block is small already (`Plan.column_blocks`).
    """
    step = max(block.shape[0], 1)
    if block.device.type == "cpu" and block.stride(1) == 1:
        row = max(block.shape[1] * block.element_size(), 1)
        step = max(1, torch.get_num_threads() * _CACHE_BYTES // row)
    for start in range(0, block.shape[0], step):
        yield slice(start, start + step)


def add_block(z: Tensor, sums: Sums, hole: Tensor, has_banned: bool, spare: Tensor | None = None) -> None:
    """Add a block to the sums. It becomes exp(z - m), or z - m where `spare` is there for the exponentials.

    Args:
        z: ``(tokens, block)``, the targets taken out. Overwritten.
        sums: Updated in place.
        hole: ``(tokens, 1)``, the column `take_target` returned.
        has_banned: Whether the bias takes columns out of the vocabulary, so that z holds other -inf than the targets'.
        spare: Like z, where the gradient will need z - m.
    """
    for rows in cached(z):
        _add_rows(z[rows], sums.of(rows), hole[rows], has_banned, None if spare is None else spare[rows])


def _add_rows(z: Tensor, sums: Sums, hole: Tensor, has_banned: bool, spare: Tensor | None) -> None:
    m = torch.maximum(sums.m, z.amax(dim=1))
    drop = sums.m - m
    z -= m[:, None]
    if sums.z is not None and sums.seen is not None:
        total, count = _finite_sum(z, hole, has_banned)
        sums.z += sums.seen * drop + total
        sums.seen += count
    exp = exp_of(z, None if spare is None and sums.exp_z is None else torch.empty_like(z) if spare is None else spare)
    shrink = drop.exp()
    if sums.exp_z is not None:
        # the clamped zeros of taken-out and banned columns add 0 * _FAR
        moved = torch.where(sums.exp > 0, drop * sums.exp, 0.0)
        sums.exp_z.add_(moved).mul_(shrink).add_(_dot(exp, z))
        if spare is None:
            z.copy_(exp)
    if sums.exp_sq is not None:
        sums.exp_sq.mul_(shrink.square()).add_(_dot(exp, exp))
    sums.exp.mul_(shrink).add_(exp.sum(dim=1))
    sums.m.copy_(m)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of a b over each row; on a processor the products are never held for the whole block."""
    total, step = torch.zeros_like(a[:, 0]), a.shape[1]
    if a.device.type == "cpu":
        step = max(1, _CACHE_BYTES // max(a.shape[0] * a.element_size(), 1))
    held = torch.empty_like(a[:, :step])
    for left in range(0, a.shape[1], step):
        part = a[:, left : left + step]
        total += torch.mul(part, b[:, left : left + step], out=held[:, : part.shape[1]]).sum(dim=1)
    return total


def exp_of(shifted: Tensor, spare: Tensor | None) -> Tensor:
    """exp(z - m), in place or into `spare`; beside it z - m stays, finite."""
    return shifted.exp_() if spare is None else torch.exp(shifted.clamp_(min=_FAR), out=spare)


def to_gradient(
    exp: Tensor, shifted: Tensor | None, formula: Formula, column: Tensor | None, targets: Tensor, start: int
) -> Tensor:
    """Turn exp(z - m) into the gradient in z, in place.

    Args:
        exp: ``(tokens, block)`` exp(z - m), 0 at the target. Overwritten with the result.
        shifted: z - m of the same block (overwritten), needed where the entropy's or collision's gradient is asked.
        formula: What becomes of them in each row.
        column: ``(block,)`` 1 where the column is in the vocabulary, None where all are.
        targets, start: The id of each row's target, and of the block's first column.
    """
    for rows in cached(exp):
        part = formula.of_rows(rows)
        _rows_to_gradient(exp[rows], None if shifted is None else shifted[rows], part, column)
    local = targets - start
    inside = (local >= 0) & (local < exp.shape[1])
    at = local.clamp(0, exp.shape[1] - 1)[:, None]
    return exp.scatter_(1, at, torch.where(inside[:, None], formula.target[:, None], exp.gather(1, at)))


def _rows_to_gradient(exp: Tensor, shifted: Tensor | None, formula: Formula, column: Tensor | None) -> None:
    factor = (formula.scale * formula.inverse)[:, None]
    if not formula.is_plain:
        assert shifted is not None
        if formula.entropy is None:
            shifted.copy_(factor.expand_as(shifted))
        else:
            torch.addcmul(factor, shifted, (formula.entropy * formula.inverse)[:, None], value=-1, out=shifted)
        if formula.squared is not None:
            shifted.addcmul_(exp, (formula.squared * formula.inverse)[:, None])
        factor = shifted
    exp *= factor
    if formula.each is None:
        return
    if column is None:
        exp += formula.each[:, None]
    else:
        exp.addr_(formula.each, column)


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
