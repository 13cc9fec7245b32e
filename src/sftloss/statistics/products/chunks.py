"""A chunk of tokens with its whole vocabulary: read the blocks of its logits, then add its gradients."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from sftloss.statistics.backends.backend import Backend
from sftloss.statistics.backends.plain import Chunk, Keep, LogitBlock, start_sums
from sftloss.statistics.backends.rows import RowGradient, RowNumbers
from sftloss.statistics.plan import Buffers, Plan, cuts, is_small
from sftloss.statistics.products.filtering import GROUP, Filter, TokenGroup
from sftloss.statistics.products.gradients import Gradients
from sftloss.statistics.sharded import merge


def read_chunk(
    backend: Backend, chunk: Chunk, fields: Collection[str], buffers: Buffers, keep: Keep, plan: Plan
) -> tuple[list[LogitBlock], RowNumbers]:
    """Read the blocks of a chunk of tokens, and finish the numbers of its rows."""
    sums = start_sums(fields, chunk, backend.head, backend.dtype)
    columns, keep = _cut(backend, chunk, keep, plan)
    blocks = [backend.read(chunk, part, sums, buffers, keep) for part in columns]
    return blocks, merge(sums, backend.head.shard, chunk.targets).numbers(backend.vocab_size)


def recompute_chunk(
    backend: Backend, chunk: Chunk, m: Tensor, buffers: Buffers, keep: Keep, plan: Plan
) -> list[LogitBlock]:
    """Multiply the blocks of a chunk again, centred at the final m of its rows."""
    columns, keep = _cut(backend, chunk, keep, plan)
    return [backend.recompute(chunk, part, m, buffers, keep) for part in columns]


def _cut(backend: Backend, chunk: Chunk, keep: Keep, plan: Plan) -> tuple[list[slice], Keep]:
    tokens, vocab = chunk.hidden.shape[0], backend.head.weight.shape[0]
    columns = list(plan.column_blocks(tokens, vocab, backend.dtype.itemsize, is_device=backend.is_device))
    return columns, keep._replace(is_whole=False) if is_small(tokens, columns) else keep


def add_chunk(
    backend: Backend,
    blocks: list[LogitBlock],
    formula: tuple[RowNumbers, RowGradient],
    gradients: Gradients,
    piece: slice,
    buffers: Buffers,
    state: Filter | None = None,
) -> None:
    """Turn the blocks of a chunk into their gradients, and add the products; `state` filters them."""
    chunk = blocks[0].chunk
    d_hidden = whole = gradients.of_tokens(piece)
    is_wide = backend.is_device or is_small(len(chunk.hidden), [block.columns for block in blocks])
    if whole is not None and not is_wide:
        # column by column, as the logits lie
        d_hidden = buffers.take("d_hidden", whole.shape[1], whole.shape[0]).t()
    if state is None:
        for block in blocks:
            gradients.add(backend.write(block, *formula), chunk.hidden, d_hidden, piece, block.columns)
    else:
        _add_filtered(backend, blocks, formula, gradients, d_hidden, piece, state)
    if whole is not None and d_hidden is not None and d_hidden is not whole:
        whole.copy_(d_hidden)
    if state is not None:
        state.end_chunk()


def _add_filtered(
    backend: Backend,
    blocks: list[LogitBlock],
    formula: tuple[RowNumbers, RowGradient],
    gradients: Gradients,
    d_hidden: Tensor | None,
    piece: slice,
    state: Filter,
) -> None:
    """Write the whole dz of a chunk, then add the gradient of a group of its tokens at a time."""
    hidden, upstream = blocks[0].chunk.hidden, formula[1].log_sum
    parts = cuts(len(hidden), GROUP) if state.is_on else ()
    groups = [TokenGroup(rows, hidden[rows], _signs(upstream[rows]), state) for rows in parts]
    for block in blocks:
        dz = backend.write(block, *formula)
        if not groups:
            gradients.add(dz, hidden, d_hidden, piece, block.columns)
            continue
        for group in groups:
            group.add(dz[group.rows], block.columns)
        if block.out is not None and len(blocks) > 1:
            dz = block.value.copy_(dz)  # the next block overwrites `out`
    if not groups:
        state.skip(len(hidden))
        return
    if len(blocks) > 1:  # they are neighbours in one piece of memory
        first, size = blocks[0].value, (len(dz), blocks[-1].columns.stop)
        dz = first.as_strided(size, first.stride(), first.storage_offset())
    for group in groups:
        mine = None if d_hidden is None else d_hidden[group.rows]
        if not state.finish(group, dz[group.rows], mine, piece.start):
            for block in blocks:
                part = dz[group.rows, block.columns].to(backend.product)
                gradients.add(part, group.hidden, mine, piece, block.columns)


def _signs(upstream: Tensor) -> Tensor | None:
    """Return the sign of each row off its target; None where all have the same."""
    is_negative = upstream < 0
    if bool(is_negative.all() | (upstream >= 0).all()):
        return None
    return torch.where(is_negative, -1.0, 1.0).to(upstream.dtype)
