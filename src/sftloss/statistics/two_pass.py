"""Two passes: tiles of the vocabulary, recomputed in backward. Four products, memory near the inputs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sftloss.statistics.backends.backend import Backend, backend_of
from sftloss.statistics.backends.plain import Chunk, Keep, LogitBlock, start_sums
from sftloss.statistics.backends.rows import (
    FREE,
    RowGradient,
    RowNumbers,
    needs_shifted_logits,
    row_gradient,
    sliced,
    statistics_of,
)
from sftloss.statistics.checks import check_inputs, checked_plan, not_traced, refuse_second_order
from sftloss.statistics.head import Head
from sftloss.statistics.plan import Buffers, Plan, cuts
from sftloss.statistics.products.chunks import add_chunk, recompute_chunk
from sftloss.statistics.products.filtering import Filter
from sftloss.statistics.products.gradients import Gradients, Wanted, in_dtypes
from sftloss.statistics.sharded import merge
from sftloss.statistics.tokens import CANDIDATE_IDS, FIELDS, IGNORED, Counted, Filtered, TokenStats, check_fields


@not_traced
def token_statistics(
    hidden: Float[Tensor, "tokens hidden"],
    head: Head,
    targets: Int[Tensor, " tokens"],
    *,
    fields: Collection[str] = FIELDS,
    extras: Mapping[str, Tensor] | None = None,
    plan: Plan | None = None,
) -> TokenStats:
    r"""Statistics of every token without holding the logits: differentiable, recomputed in backward.

    Use it where one pass cannot serve: an objective that mixes tokens, or your own autograd on the statistics.

    Args:
        hidden: ``(tokens, hidden)``, any floating dtype; statistics are computed in float32 or better.
        head: The output head.
        targets: ``(tokens,)``, already shifted; ``-100`` is ignored (statistics 0, gradient 0).
        fields: Statistics to compute; the cheapest set is ``("target_logprob", "logsumexp")``.
        extras: Your own tensors, first axis ``tokens``, handed on as ``stats.extras``; ``candidate_ids`` are read.
        plan: Tile sizes, and the tolerance of the gradients.

    Returns:
        :class:`TokenStats`, each field ``(tokens,)``, in nats.

    Raises:
        TypeError: If an argument is of another type, such as a layer given as the head.
        ValueError: If shapes, dtypes, devices, ids or names of statistics cannot be right.

    Gradient:
        Exact, in `hidden` and every tensor of `head` that requires one, unless the plan has a tolerance. Second
        derivatives raise.

    Example:
        >>> stats = token_statistics(torch.zeros(1, 2), Head(torch.zeros(4, 2)), torch.tensor([1]))
        >>> stats.entropy
        tensor([1.3863])
    """
    check_inputs("token_statistics", hidden, head, targets)
    check_fields("token_statistics", fields)
    names = tuple(dict.fromkeys((*FREE, *fields)))
    plan, extras = checked_plan("token_statistics", plan), extras or {}
    request = Request(backend_of(hidden, head), targets, names, plan, extras.get(CANDIDATE_IDS))
    values = _TwoPass.apply(hidden, head.weight, head.bias, head.low_rank, request)
    fields = dict(zip(names, values, strict=True))
    return TokenStats(fields, request.backend.vocab_size, extras, request.filtered)


@dataclass(frozen=True)
class Request:
    """The arguments of one pass over tiles that are not differentiated."""

    backend: Backend
    targets: Tensor
    fields: tuple[str, ...]
    plan: Plan
    ids: Tensor | None  # the candidates
    filtered: list[Filtered] = field(default_factory=list)  # filled by each backward pass

    def tiles(self, tokens: int) -> Iterator[tuple[slice, slice]]:
        """Yield the tokens and the columns of every tile, one sweep over the vocabulary for each super-chunk."""
        vocab, itemsize = self.backend.head.weight.shape[0], self.backend.dtype.itemsize
        height, width = self.plan.tile(tokens, vocab, itemsize, is_device=self.backend.is_device)
        return ((rows, columns) for rows in cuts(tokens, height) for columns in cuts(vocab, width))


class _TwoPass(torch.autograd.Function):
    """(hidden, weight, bias, low_rank, request) -> the statistics of `request.fields`, each ``(tokens,)``."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, low_rank: Tensor | None, request: Request
    ) -> tuple[Tensor, ...]:
        backend = request.backend
        ctx.counted = counted = Counted.of(request.targets != IGNORED, known=request.plan.counted)
        with torch.autocast(hidden.device.type, enabled=False):
            ids = None if request.ids is None else counted.take(request.ids)
            chunk = Chunk(counted.take(hidden).to(backend.product), counted.take(request.targets), ids)
            numbers, block = read_tiles(chunk, request)
        # logits that are one tile stay for backward, which then needs no fourth product
        ctx.block = block if any(ctx.needs_input_grad[:4]) else None
        out = [counted.put(value) for value in statistics_of(numbers, request.fields).values()]
        ctx.request = request
        ctx.save_for_backward(hidden, weight, bias, low_rank, *vars(numbers).values())
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(value for value in out if not value.is_floating_point()))
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_order("token_statistics")
        saved = ctx.saved_tensors  # under checkpointing they can be read once only
        inputs, numbers = saved[:4], RowNumbers(*saved[4:])
        request, counted, leaves = ctx.request, ctx.counted, numbers.leaves()
        with torch.enable_grad():
            values = statistics_of(leaves, request.fields).values()
        grad = row_gradient(values, [None if up is None else counted.take(up) for up in upstream], leaves)
        with torch.autocast(inputs[0].device.type, enabled=False):
            chunk = Chunk(counted.take(inputs[0]).to(request.backend.product), counted.take(request.targets))
            block, ctx.block = ctx.block, None  # its gradient overwrites it: a second backward pass multiplies again
            wanted = Wanted(*ctx.needs_input_grad[:4])
            if request.plan.tolerance and wanted.has_products:
                mass = sum(float(up.abs().sum()) for up in upstream if up is not None)
                gradients = _write_filtered(chunk, request, (numbers, grad), wanted, block, mass)
            else:
                gradients = _write(chunk, request, numbers, grad, wanted, block)
            return *in_dtypes(gradients.finish(counted), inputs), None


def read_tiles(chunk: Chunk, request: Request) -> tuple[RowNumbers, LogitBlock | None]:
    """Return the numbers of every row; and the block, where it is the only one and its gradient needs no more."""
    backend, tokens = request.backend, chunk.hidden.shape[0]
    buffers = Buffers(chunk.hidden, backend.dtype)
    sums = start_sums(request.fields, chunk, backend.head, backend.dtype)
    tiles = list(request.tiles(tokens))
    is_kept = len(tiles) == 1 and not needs_shifted_logits(request.fields)
    keep = Keep(slope=is_kept and backend.head.softcap is not None)
    for rows, columns in tiles:
        part = Chunk(chunk.hidden[rows], chunk.targets[rows])
        block = backend.read(part, columns, sliced(sums, rows), buffers, keep)
    numbers = merge(sums, backend.head.shard, chunk.targets).numbers(backend.vocab_size)
    return numbers, replace(block, chunk=Chunk(chunk.hidden[:0], chunk.targets)) if is_kept else None


def _write(
    chunk: Chunk,
    request: Request,
    numbers: RowNumbers,
    grad: RowGradient,
    wanted: Wanted,
    kept: LogitBlock | None,
) -> Gradients:
    """Recompute every tile and sum its gradients; each block of dW is written once for every super-chunk of tokens."""
    backend, tokens = request.backend, chunk.hidden.shape[0]
    is_single = tokens <= request.plan.tile(tokens, 1, 1)[0]
    gradients = Gradients(backend.head, wanted, chunk.hidden, tokens, backend.dtype, is_written_once=is_single)
    buffers, keep = Buffers(chunk.hidden, backend.dtype), _kept(backend, grad)
    for rows, columns in request.tiles(tokens):
        part = Chunk(chunk.hidden[rows], chunk.targets[rows])
        block = kept or backend.recompute(part, columns, numbers.m[rows], buffers, keep)
        dz = backend.write(block, sliced(numbers, rows), sliced(grad, rows))
        gradients.add(dz, part.hidden, gradients.of_tokens(rows), rows, columns)
    return gradients


def _write_filtered(
    chunk: Chunk,
    request: Request,
    formula: tuple[RowNumbers, RowGradient],
    wanted: Wanted,
    kept: LogitBlock | None,
    mass: float,
) -> Gradients:
    """Recompute a chunk of tokens at a time, whose filter reads all its columns, and sum the filtered gradients."""
    backend, plan, tokens = request.backend, request.plan, chunk.hidden.shape[0]
    gradients = Gradients(backend.head, wanted, chunk.hidden, tokens, backend.dtype, starts_at_zero=True)
    state = Filter(plan.tolerance, gradients, backend.product, tokens)
    buffers, keep = Buffers(chunk.hidden, backend.dtype), _kept(backend, formula[1])._replace(is_whole=True)
    step = plan.chunk(tokens, backend.head.common, backend.dtype.itemsize, is_device=backend.is_device)
    for piece in cuts(tokens, step if kept is None else max(tokens, 1)):
        part = Chunk(chunk.hidden[piece], chunk.targets[piece])
        numbers, grad = sliced(formula[0], piece), sliced(formula[1], piece)
        if kept is None:
            blocks = recompute_chunk(backend, part, numbers.m, buffers, keep, plan)
        else:
            blocks = [replace(kept, chunk=part)]
        add_chunk(backend, blocks, (numbers, grad), gradients, piece, buffers, state)
    state.correct(at_least=1)
    request.filtered.append(state.report(mass))
    return gradients


def _kept(backend: Backend, grad: RowGradient) -> Keep:
    """What of recomputed logits their gradient needs."""
    return Keep(grad.needs_shifted, backend.head.softcap is not None)
