"""Blocks of logits in plain PyTorch: read the numbers of a block, then turn it into its gradient, in place.

The target's own logit is taken out first and never enters a sum. The sums of blocks merge exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sftloss.statistics.backends.further import add_order, add_tempered, local_ids, take_candidates
from sftloss.statistics.backends.rows import FAR, GradientFormula, RowGradient, RowNumbers, Sums, present, sliced
from sftloss.statistics.head import Head
from sftloss.statistics.plan import Buffers
from sftloss.statistics.products.logits import compute_dtype, project, target_logits, vocabulary

_CACHE_BYTES = 2 * 2**20  # of a block that one thread goes over several times while it is in the thread's cache


class Chunk(NamedTuple):
    """Some tokens: their hidden states in the dtype of the products, their targets and, where read, candidates."""

    hidden: Tensor
    targets: Tensor
    ids: Tensor | None = None


class Keep(NamedTuple):
    """What of a block of logits stays for its gradient, beside exp(z - m)."""

    shifted: bool = False  # z - m, which the gradients of entropy and collision need
    slope: bool = False  # of the softcap
    is_whole: bool = False  # the block stays beside those of the other columns; otherwise the next one overwrites it


@dataclass(frozen=True)
class LogitBlock:
    """Some columns of a chunk's logits, between reading them and writing their gradient."""

    chunk: Chunk
    columns: slice
    value: Tensor  # plain: exp(z - centre), 0 at the target; z - centre where `out` is there. Triton: bare product
    out: Tensor | None  # where the gradient goes if not in the place of `value`; the same memory for all blocks
    slope: Tensor | None  # d(capped) / d(uncapped)
    centre: Tensor  # (tokens,)


@dataclass
class PlainBackend:
    """Plain PyTorch on any device, for one call."""

    head: Head
    dtype: torch.dtype
    product: torch.dtype
    vocab_size: int | Tensor
    is_device: bool
    in_vocab: Tensor | None  # (vocab,) 1 where the column is in the vocabulary, None where all are

    @classmethod
    def of(cls, hidden: Tensor, head: Head) -> PlainBackend:
        dtype = compute_dtype(hidden)
        in_vocab, vocab_size = vocabulary(head, dtype)
        return cls(head, dtype, dtype, vocab_size, hidden.device.type != "cpu", in_vocab)

    def read(self, chunk: Chunk, columns: slice, sums: Sums, buffers: Buffers, keep: Keep) -> LogitBlock:
        block = self._multiplied(chunk, columns, buffers, keep)
        z, out = block.value, block.out
        take_candidates(z, self.head.start + columns.start, sums)
        hole = self._take_target(block, sums.target)
        for rows in _cached(z):
            spare = None if out is None else out[rows]
            _add_rows(z[rows], sliced(sums, rows), hole[rows], self.in_vocab is not None, spare)
        return replace(block, centre=sums.m.clone())

    def recompute(self, chunk: Chunk, columns: slice, m: Tensor, buffers: Buffers, keep: Keep) -> LogitBlock:
        block = replace(self._multiplied(chunk, columns, buffers, keep), centre=m)
        self._take_target(block, torch.empty_like(m))
        for rows in _cached(block.value):
            shifted = block.value[rows].sub_(m[rows, None])
            shifted.clamp_(min=FAR) if keep.shifted else shifted.exp_()
        return block

    def write(self, block: LogitBlock, numbers: RowNumbers, grad: RowGradient) -> Tensor:
        # the block is centred at its own m, and log S moves with m
        moved = (numbers.m - block.centre).clamp(max=-FAR)
        tempered = None if numbers.tempered is None else numbers.tempered + moved * present(numbers.rate)
        numbers = replace(numbers, m=block.centre, log_sum=numbers.log_sum + moved, tempered=tempered)
        formula = GradientFormula.of(numbers, grad, self.vocab_size)
        in_vocab = None if self.in_vocab is None else self.in_vocab[block.columns]
        dz = block.value if block.out is None else block.out
        for rows in _cached(dz):
            shifted = None if block.out is None else block.value[rows]
            if shifted is not None:
                torch.exp(shifted, out=dz[rows])
            _rows_to_gradient(dz[rows], shifted, sliced(formula, rows), in_vocab)
        inside, column = self._column(block)
        dz.scatter_(1, column, torch.where(inside, formula.target[:, None], dz.gather(1, column)))
        if grad.candidates is not None:
            inside, column = local_ids(present(numbers.ids), self.head.start + block.columns.start, dz.shape[1])
            dz.scatter_add_(1, column, torch.where(inside, grad.candidates, 0.0))
        return dz if block.slope is None else dz.mul_(block.slope)

    def _multiplied(self, chunk: Chunk, columns: slice, buffers: Buffers, keep: Keep) -> LogitBlock:
        """Write the logits of a block into its buffers."""
        tokens, width, vocab = chunk.hidden.shape[0], columns.stop - columns.start, self.head.weight.shape[0]
        if keep.is_whole:
            # column by column: the product of few tokens with a large weight runs at a processor's full rate only with
            # the weight on the left
            z = buffers.take("z", vocab, tokens).t()[:, columns]
            slope = buffers.take("slope", vocab, tokens).t()[:, columns] if keep.slope else None
            out = buffers.take("out", width, tokens).t() if keep.shifted else None
        else:
            z = buffers.take("z", tokens, width)
            slope = buffers.take("slope", tokens, width) if keep.slope else None
            out = buffers.take("out", tokens, width) if keep.shifted else None
        project(chunk.hidden, self.head, columns, z, slope)
        return LogitBlock(chunk, columns, z, out, slope, z[:, 0])

    def _take_target(self, block: LogitBlock, target: Tensor) -> Tensor:
        """Move the target's logit from the block, where the block holds it, into `target`; return its column."""
        z = block.value
        inside, column = self._column(block)
        value = z.gather(1, column)
        torch.where(inside[:, 0], value[:, 0], target, out=target)
        z.scatter_(1, column, torch.where(inside, float("-inf"), value))
        return column

    def _column(self, block: LogitBlock) -> tuple[Tensor, Tensor]:
        """Return whether the block holds the target of each row, and its column there (any column where not)."""
        return local_ids(block.chunk.targets[:, None], self.head.start + block.columns.start, block.value.shape[1])


def start_sums(fields: Collection[str], chunk: Chunk, head: Head, dtype: torch.dtype) -> Sums:
    """Return the sums of a chunk before its first block, with the target's logit where a rank is counted."""
    sums = Sums.start(fields, len(chunk.hidden), chunk.hidden, dtype, chunk.ids)
    if sums.own is not None:
        sums.own.copy_(target_logits(chunk.hidden, head, chunk.targets, dtype))
    return sums


def _cached(block: Tensor) -> Iterator[slice]:
    """Yield rows to process together: as many as stay in a processor's caches over several passes, elsewhere all.

    Where the columns are contiguous instead, the block is small already (`Plan.column_blocks`).
    """
    step = max(block.shape[0], 1)
    if block.device.type == "cpu" and block.stride(1) == 1:
        row = max(block.shape[1] * block.element_size(), 1)
        step = max(1, torch.get_num_threads() * _CACHE_BYTES // row)
    for start in range(0, block.shape[0], step):
        yield slice(start, start + step)


def _add_rows(z: Tensor, sums: Sums, hole: Tensor, has_banned: bool, spare: Tensor | None) -> None:
    """Add some rows of a block to their sums. z becomes exp(z - m), or z - m where `spare` takes the exponentials.

    `hole` is the column of the target, or any where the block does not hold it. With `has_banned` the bias takes
    columns out of the vocabulary, so that z holds other -inf than the target's.
    """
    m = torch.maximum(sums.m, z.amax(dim=1))
    drop = sums.m - m
    add_order(z, sums)
    z -= m[:, None]
    add_tempered(z, drop, sums)
    if sums.z is not None and sums.count is not None:
        total, count = _finite_sum(z, hole, has_banned)
        sums.z += sums.count * drop + total
        sums.count += count
    if spare is None and sums.exp_z is None:
        exp = z.exp_()
    else:
        exp = torch.exp(z.clamp_(min=FAR), out=torch.empty_like(z) if spare is None else spare)
    shrink = drop.exp()
    if sums.exp_z is not None:
        # the clamped zeros of taken-out and banned columns add 0 * FAR
        moved = torch.where(sums.exp > 0, drop * sums.exp, 0.0)
        sums.exp_z.add_(moved).mul_(shrink).add_(_dot(exp, z))
        if spare is None:
            z.copy_(exp)
    if sums.exp_sq is not None:
        sums.exp_sq.mul_(shrink.square()).add_(_dot(exp, exp))
    sums.exp.mul_(shrink).add_(exp.sum(dim=1))
    sums.m.copy_(m)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of a b over each row; on a processor the products are never held for the whole block."""
    total, step = torch.zeros_like(a[:, 0]), a.shape[1]
    if a.device.type == "cpu":
        step = max(1, _CACHE_BYTES // max(a.shape[0] * a.element_size(), 1))
    buffer = torch.empty_like(a[:, :step])
    for left in range(0, a.shape[1], step):
        part = a[:, left : left + step]
        total += torch.mul(part, b[:, left : left + step], out=buffer[:, : part.shape[1]]).sum(dim=1)
    return total


def _finite_sum(z: Tensor, hole: Tensor, has_banned: bool) -> tuple[Tensor, Tensor]:
    """Return sum and number of the finite entries of each row; z is left as it was."""
    if has_banned:
        finite = z > float("-inf")
        return torch.where(finite, z, 0.0).sum(dim=1), finite.sum(dim=1)
    # only the hole can be -inf: close it for the sum rather than copy the block
    value = z.gather(1, hole)
    is_open = value == float("-inf")
    total = z.scatter_(1, hole, torch.where(is_open, 0.0, value)).sum(dim=1)
    z.scatter_(1, hole, value)
    return total, z.shape[1] - is_open[:, 0].long()


def _rows_to_gradient(exp: Tensor, shifted: Tensor | None, formula: GradientFormula, in_vocab: Tensor | None) -> None:
    """Turn exp(z - m) of some rows into the gradient off the target, in place; `shifted` is overwritten too."""
    factor = (formula.scale * formula.inverse)[:, None]
    tempered = None
    if formula.tempered is not None:
        assert shifted is not None
        tempered = shifted if formula.entropy is None and formula.squared is None else shifted.clone()
        tempered.mul_(present(formula.rate)[:, None]).exp_()
    if formula.entropy is not None or formula.squared is not None:
        assert shifted is not None
        if formula.entropy is None:
            shifted.copy_(factor.expand_as(shifted))
        else:
            torch.addcmul(factor, shifted, (formula.entropy * formula.inverse)[:, None], value=-1, out=shifted)
        if formula.squared is not None:
            shifted.addcmul_(exp, (formula.squared * formula.inverse)[:, None])
        factor = shifted
    exp *= factor
    if tempered is not None:
        exp.addcmul_(tempered, present(formula.tempered)[:, None])
    if formula.constant is None:
        return
    if in_vocab is None:
        exp += formula.constant[:, None]
    else:
        exp.addr_(formula.constant, in_vocab)
