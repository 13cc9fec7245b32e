"""One pass: a chunk of tokens finishes its gradients while its logits are alive. Three products, no recomputation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sftloss.statistics.backends.cpu import Sums, add_block, take_target, to_gradient, uses_kernels
from sftloss.statistics.backends.rows import FREE, Formula, RowGradient, Rows, needs, row_gradient, statistics_of
from sftloss.statistics.boundary import first_order
from sftloss.statistics.definition import IGNORED, spread
from sftloss.statistics.head import (
    Head,
    blocks,
    compute_dtype,
    finite_columns,
    multiply,
    product_dtype,
    products,
    project,
)
from sftloss.statistics.plan import Plan, Room
from sftloss.statistics.sharded import Shard, from_centre, merge, total
from sftloss.statistics.tokens import TokenStats


@dataclass(frozen=True)
class Work:
    """Everything of one call that is not differentiated."""

    targets: Tensor
    coefficients: Tensor
    objective: Callable[[TokenStats], Tensor]
    extras: Mapping[str, Tensor]
    fields: tuple[str, ...]
    scale: float
    softcap: float | None
    plan: Plan
    shard: Shard | None = None

    def head(self, weight: Tensor, bias: Tensor | None, low_rank: Tensor | None) -> Head:
        return Head(weight, bias, self.scale, self.softcap, self.shard, low_rank)

    @property
    def returned(self) -> tuple[str, ...]:
        """The statistics handed back: what was read, what is free, what was asked for; in a fixed order."""
        return tuple(dict.fromkeys((*FREE, *self.fields, *self.plan.fields)))


@dataclass
class Gradients:
    """Gradients of sum (c / unit) f, in the compute dtype; None where not wanted."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    low_rank: Tensor | None


class OnePass(torch.autograd.Function):
    """(hidden, weight, bias, low_rank, work) -> loss, then the statistics of `work.returned`, which carry no graph."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, low_rank, work):  # type: ignore[no-untyped-def]
        wanted, head = tuple(ctx.needs_input_grad[:4]), work.head(weight, bias, low_rank)
        ctx.dtype = product_dtype(hidden, head)
        with torch.autocast(hidden.device.type, enabled=False):
            loss, stats, gradients, unit = sweep(hidden, head, work, wanted, ctx.dtype)
        ctx.save_for_backward(hidden, weight, bias, low_rank)
        ctx.work, ctx.wanted, ctx.gradients, ctx.unit = work, wanted, gradients, unit
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*stats)
        return loss, *stats

    @staticmethod
    @first_order("weighted_loss")
    def backward(ctx, upstream, *of_statistics):  # type: ignore[no-untyped-def]
        if upstream is None:
            return None, None, None, None, None
        inputs = ctx.saved_tensors
        hidden = inputs[0]
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # a second backward through a retained graph: the first one took the buffers
            with torch.autocast(hidden.device.type, enabled=False), torch.no_grad():
                _, _, gradients, _ = sweep(hidden, ctx.work.head(*inputs[1:]), ctx.work, ctx.wanted, ctx.dtype)
        found, factor = tuple(vars(gradients).values()), upstream * ctx.unit
        if uses_kernels(hidden) or factor != 1:  # to look there is to wait for the device
            found = tuple(None if value is None else value.mul_(factor) for value in found)
        out = [None if value is None else value.to(like.dtype) for value, like in zip(found, inputs, strict=True)]
        return (*out, None)


def sweep(
    hidden: Tensor, head: Head, work: Work, wanted: tuple[bool, ...], product: torch.dtype
) -> tuple[Tensor, list[Tensor], Gradients, Tensor]:
    """Go over the tokens that count, chunk by chunk; where the kernels run over all, the others zero throughout."""
    tokens, dtype = hidden.shape[0], compute_dtype(hidden)
    counted = (work.targets != IGNORED) & (work.coefficients != 0)
    masked = uses_kernels(hidden)  # to drop rows is to wait for the device until it has counted them
    kept = torch.arange(tokens, device=hidden.device) if masked else torch.nonzero(counted)[:, 0]
    everything = kept.shape[0] == tokens
    coefficients = torch.where(counted, work.coefficients.to(dtype), 0.0)
    largest = coefficients.abs().amax() if tokens else coefficients.new_ones(())
    largest = torch.where(largest > 0, largest, 1.0)
    unit = largest if product != dtype else torch.ones_like(largest)  # dz of order one, where it is rounded
    state = _State(hidden, head, wanted, kept.shape[0])
    state.is_masked = masked
    state.skip_below = work.plan.skip_below * largest / unit if work.plan.skip_below else None
    loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
    pieces: list[dict[str, Tensor]] = []
    step = work.plan.chunk(kept.shape[0], head.common, dtype.itemsize, is_device=masked or hidden.is_cuda)
    for start in range(0, kept.shape[0], step):
        piece = slice(start, min(start + step, kept.shape[0]))
        chosen: slice | Tensor = piece if everything else kept[piece]
        extras = {name: value[chosen] for name, value in work.extras.items()}
        c = coefficients[chosen] / unit
        h, y = hidden[chosen].to(product), work.targets[chosen]
        if masked:
            h, y = h.masked_fill(~counted[chosen, None], 0.0), y.masked_fill(~counted[chosen], 0)
        values, share = state.chunk(h, y, c, extras, work, piece)
        loss += share
        pieces.append(values)
    stats = _gather(pieces, work.returned, dtype, hidden.device)
    if not everything:
        stats = [spread(value, kept, tokens) for value in stats]
    elif masked:
        stats = [value.masked_fill(~counted, 0) for value in stats]
    return (loss * unit).to(dtype), stats, state.finish(tokens, kept, everything), unit


@dataclass(frozen=True)
class Block:
    """Some columns of a chunk's logits between the two products, centred at the largest logit met up to them."""

    columns: slice
    value: Tensor  # exp(z - centre), 0 at the target; z - centre, where `out` is given; the kernels' bare product
    out: Tensor | None  # where the gradient goes, if not in the place of `value`; the same memory for all blocks
    slope: Tensor | None  # d(capped) / d(uncapped)
    centre: Tensor


class _State:
    """Buffers that live over the chunks of one call."""

    def __init__(self, hidden: Tensor, head: Head, wanted: tuple[bool, ...], kept: int) -> None:
        self.head, self.dtype = head, compute_dtype(hidden)
        self.finite, self.vocab_size = finite_columns(head, self.dtype)
        vocab = head.weight.shape[0]
        like = torch.empty(0, dtype=self.dtype, device=hidden.device)
        # the first chunk overwrites what is in them; with no chunk they are the zero gradient
        make = like.new_empty if kept else like.new_zeros
        self.d_hidden = make((kept, head.width)) if wanted[0] else None
        self.d_weight = make(head.weight.shape) if wanted[1] else None
        self.d_bias = like.new_zeros(vocab) if wanted[2] else None
        self.d_low_rank = make(head.low_rank.shape) if wanted[3] and head.low_rank is not None else None
        self.wants_gradient = any(wanted)
        self.room = Room(hidden, self.dtype)
        self.is_masked = False  # rows that do not count are there, with coefficient 0
        self.skip_below: Tensor | None = None  # columns of dz that nowhere reach it take no part in the products

    def keeps_shifted(self, work: Work) -> bool:
        """Whether the backward formula reads z - m beside exp(z - m), which is then made again from it."""
        return self.wants_gradient and not {"entropy", "collision"}.isdisjoint(work.fields)

    @property
    def keeps_slope(self) -> bool:
        """Whether the slope of the cap, a buffer like that of the logits, is multiplied into the gradient."""
        return self.wants_gradient and self.head.softcap is not None

    def chunk(
        self, hidden: Tensor, targets: Tensor, c: Tensor, extras: Mapping[str, Tensor], work: Work, piece: slice
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Values of the statistics and the loss of one chunk; its gradients go into the buffers."""
        held, rows = self._read(hidden, targets, work)
        leaves = rows.leaves()
        with torch.enable_grad():
            values = statistics_of(leaves, work.returned)
            losses = work.objective(TokenStats(values, self.vocab_size, extras))
            if self.is_masked:
                losses = torch.where(c != 0, losses, 0.0)
        loss = (losses.detach().double() * c).sum()
        if self.wants_gradient:
            grad = row_gradient([losses], [c.to(losses.dtype)], leaves)
            if self.is_masked:  # an objective may have no finite gradient where its extras have no number
                grad = grad.map(lambda value: torch.where(c != 0, value, 0.0))
            d_hidden = self._d_hidden(piece)
            for block in held:
                dz = self._gradient(block, rows, targets, grad)
                self._products(dz, (hidden, d_hidden), (piece, block.columns))
            if self.d_hidden is not None and d_hidden is not None and not self.is_masked:
                self.d_hidden[piece] = d_hidden
        return {name: value.detach() for name, value in values.items()}, loss

    def _read(self, hidden: Tensor, targets: Tensor, work: Work) -> tuple[list[Block], Rows]:
        if not uses_kernels(hidden):
            return read_chunk(self, (hidden, targets), needs(work.returned), self.keeps_shifted(work), work.plan)
        from sftloss.statistics.backends import triton as kernels

        z = self.room.take("z", hidden.shape[0], self.head.weight.shape[0])
        out = None if hidden.dtype == z.dtype else self.room.take("out", z.shape[0], z.shape[1], hidden.dtype)
        every = slice(0, z.shape[1])
        for columns, factors in blocks(self.head, hidden.dtype, every):
            products(hidden, factors, z[:, columns])
        sums = Sums.start(z.shape[0], needs(work.returned), z)
        kernels.read(z, kernels.Block(self.head, every, targets), sums)
        rows = merge(sums, self.head.shard, targets).rows(self.vocab_size)
        return [Block(every, z, out, None, rows.m)], rows

    def _gradient(self, block: Block, rows: Rows, targets: Tensor, grad: RowGradient) -> Tensor:
        """What was read, turned into the gradient in the product with the head; in place."""
        if uses_kernels(block.value):
            from sftloss.statistics.backends import triton as kernels

            held = kernels.Block(self.head, block.columns, targets)
            out = block.value if block.out is None else block.out
            return kernels.write(block.value, out, held, Formula.of(rows, grad, self.vocab_size))
        dz = self.to_gradient(block, rows, targets, grad)
        return dz if block.slope is None else dz.mul_(block.slope)

    def to_gradient(self, block: Block, rows: Rows, targets: Tensor, grad: RowGradient) -> Tensor:
        """The gradient in the (capped) logits of a block; what the block holds is overwritten."""
        formula = Formula.of(from_centre(rows, block.centre), grad, self.vocab_size)
        finite = None if self.finite is None else self.finite[block.columns]
        start = self.head.start + block.columns.start
        if block.out is None:
            return to_gradient(block.value, None, formula, finite, targets, start)
        return to_gradient(torch.exp(block.value, out=block.out), block.value, formula, finite, targets, start)

    def _d_hidden(self, piece: slice) -> Tensor | None:
        """Where the products of a chunk are added up; on a processor column by column, as its logits lie."""
        if self.d_hidden is None:
            return None
        if self.is_masked:
            return self.d_hidden[piece]
        return self.room.take("d_hidden", self.head.width, piece.stop - piece.start).t()

    def _products(self, dz: Tensor, inputs: tuple[Tensor, Tensor | None], where: tuple[slice, slice]) -> None:
        """Add the products of a block to the gradients: `inputs` are the hidden states and their gradient.

        `where` are its tokens and its columns.
        """
        (hidden, d_hidden), (tokens, columns) = inputs, where
        scale = self.head.scale
        if self.d_bias is not None:
            self.d_bias[columns].add_(dz.sum(dim=0, dtype=self.dtype), alpha=scale)
        if self.skip_below is not None:
            self._filtered_products(dz, inputs, where, self.skip_below)
            return
        for rows, factors in blocks(self.head, dz.dtype, columns):
            part = dz[:, rows.start - columns.start : rows.stop - columns.start]
            for (read, factor), gradient in zip(factors, (self.d_weight, self.d_low_rank), strict=False):
                if d_hidden is not None:
                    multiply(d_hidden[:, read], part, factor, beta=float(rows.start > 0), alpha=scale)
                if gradient is not None:
                    multiply(gradient[rows], part.t(), hidden[:, read], beta=float(tokens.start > 0), alpha=scale)

    def _filtered_products(
        self, dz: Tensor, inputs: tuple[Tensor, Tensor | None], where: tuple[slice, slice], skip_below: Tensor
    ) -> None:
        """The same from the columns of dz that reach `skip_below`."""
        (hidden, d_hidden), (tokens, columns) = inputs, where
        chosen = torch.nonzero(torch.linalg.vector_norm(dz, float("inf"), dim=0) >= skip_below)[:, 0]
        part, scale = dz.index_select(1, chosen), self.head.scale
        for (read, factor), gradient in zip(self.head.factors, (self.d_weight, self.d_low_rank), strict=False):
            if d_hidden is not None:
                held = factor.detach()[columns].index_select(0, chosen).to(dz.dtype)
                multiply(d_hidden[:, read], part, held, beta=float(columns.start > 0), alpha=scale)
            if gradient is not None:
                if tokens.start == 0:
                    gradient[columns].zero_()
                product = gradient.new_empty(part.shape[1], gradient.shape[1])
                multiply(product, part.t(), hidden[:, read])
                gradient[columns].index_add_(0, chosen, product, alpha=scale)

    def finish(self, tokens: int, kept: Tensor, everything: bool) -> Gradients:
        d_hidden = None if self.d_hidden is None else total(self.d_hidden, self.head.shard)
        if d_hidden is not None and not everything:
            d_hidden = d_hidden.new_zeros(tokens, d_hidden.shape[1]).index_copy_(0, kept, d_hidden)
        return Gradients(d_hidden, self.d_weight, self.d_bias, self.d_low_rank)


def read_chunk(
    state: _State, tokens: tuple[Tensor, Tensor], needed: set[str], keeps_shifted: bool, plan: Plan
) -> tuple[list[Block], Rows]:
    """The blocks of a chunk of tokens (hidden states and targets) on a processor, and the five numbers of its rows.

    The buffers lie column by column: the product of few tokens with the weight runs at a processor's full rate only
    with the weight on the left.
    """
    (hidden, targets), head, vocab = tokens, state.head, state.head.weight.shape[0]

    whole = state.room.take("z", vocab, hidden.shape[0]).t()
    slopes = state.room.take("slope", vocab, hidden.shape[0]).t() if state.keeps_slope else None
    sums, held = Sums.start(hidden.shape[0], needed, whole), []
    is_device = hidden.device.type != "cpu"
    for columns in plan.column_blocks(hidden.shape[0], vocab, whole.element_size(), is_device=is_device):
        z, slope = whole[:, columns], None if slopes is None else slopes[:, columns]
        for rows, factors in blocks(head, state.dtype, columns):
            part = slice(rows.start - columns.start, rows.stop - columns.start)
            project(hidden, factors, head, rows, z[:, part], None if slope is None else slope[:, part])
        hole = take_target(z, targets, head.start + columns.start, sums)
        out = state.room.take("out", z.shape[1], z.shape[0]).t() if keeps_shifted else None
        add_block(z, sums, hole, state.finite is not None, out)
        held.append(Block(columns, z, out, slope, sums.m.clone()))
    return held, merge(sums, head.shard, targets).rows(state.vocab_size)


def _gather(
    pieces: list[dict[str, Tensor]], names: tuple[str, ...], dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    if not pieces:
        return [torch.zeros(0, dtype=torch.bool if n == "is_top1" else dtype, device=device) for n in names]
    return [torch.cat([piece[name] for piece in pieces]) for name in names]


__all__ = ["Block", "Gradients", "OnePass", "RowGradient", "Work", "read_chunk", "sweep"]
