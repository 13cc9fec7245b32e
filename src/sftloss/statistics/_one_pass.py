"""One pass: a chunk of tokens finishes its gradients while its logits are alive. Three products, no recomputation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ._definition import IGNORED, spread
from ._head import Head, blocks, compute_dtype, finite_columns, project, projected_rows
from ._plan import Plan
from ._rows import FREE, RowGradient, Rows, needs, row_gradient, statistics_of
from ._sharded import Shard, from_centre, merge, total
from ._stats import TokenStats
from ._tile import Sums, add_block, put_target, take_target, to_gradient


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
    """Gradients of sum (c / max|c|) f, in the compute dtype; None where not wanted."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    low_rank: Tensor | None


class OnePass(torch.autograd.Function):
    """(hidden, weight, bias, low_rank, work) -> loss, then the statistics of `work.returned`, which carry no graph."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, low_rank, work):  # type: ignore[no-untyped-def]
        wanted = tuple(ctx.needs_input_grad[:4])
        with torch.autocast(hidden.device.type, enabled=False):
            loss, stats, gradients, largest = sweep(hidden, work.head(weight, bias, low_rank), work, wanted)
        ctx.save_for_backward(hidden, weight, bias, low_rank)
        ctx.work, ctx.wanted, ctx.gradients, ctx.largest = work, wanted, gradients, largest
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*stats)
        return loss, *stats

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream, *of_statistics):  # type: ignore[no-untyped-def]
        if upstream is None:
            return None, None, None, None, None
        inputs = ctx.saved_tensors
        hidden = inputs[0]
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # a second backward through a retained graph: the first one took the buffers
            with torch.autocast(hidden.device.type, enabled=False), torch.no_grad():
                _, _, gradients, _ = sweep(hidden, ctx.work.head(*inputs[1:]), ctx.work, ctx.wanted)
        factor = upstream * ctx.largest
        out = [
            None if value is None else value.mul_(factor).to(like.dtype)
            for value, like in zip(vars(gradients).values(), inputs, strict=True)
        ]
        return (*out, None)


def sweep(
    hidden: Tensor, head: Head, work: Work, wanted: tuple[bool, ...]
) -> tuple[Tensor, list[Tensor], Gradients, Tensor]:
    """Go over the tokens that count, chunk by chunk."""
    tokens, dtype = hidden.shape[0], compute_dtype(hidden)
    kept = torch.nonzero((work.targets != IGNORED) & (work.coefficients != 0))[:, 0]
    everything = kept.shape[0] == tokens
    coefficients = work.coefficients.to(dtype)
    largest = coefficients.abs().amax() if tokens else coefficients.new_ones(())
    largest = torch.where(largest > 0, largest, 1.0)
    state = _State(hidden, head, dtype, wanted, kept.shape[0])
    loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
    pieces: list[dict[str, Tensor]] = []
    buffers = 2 if state.keeps_shifted(work) else 1
    step = work.plan.chunk(kept.shape[0], head.common, buffers * dtype.itemsize)
    for start in range(0, kept.shape[0], step):
        piece = slice(start, min(start + step, kept.shape[0]))
        chosen: slice | Tensor = piece if everything else kept[piece]
        extras = {name: value[chosen] for name, value in work.extras.items()}
        c = coefficients[chosen] / largest
        values, share = state.chunk(hidden[chosen].to(dtype), work.targets[chosen], c, extras, work, piece)
        loss += share
        pieces.append(values)
    stats = _gather(pieces, work.returned, dtype, hidden.device)
    if not everything:
        stats = [spread(value, kept, tokens) for value in stats]
    return (loss * largest).to(dtype), stats, state.finish(tokens, kept, everything), largest


class _State:
    """Buffers that live over the chunks of one call."""

    def __init__(self, hidden: Tensor, head: Head, dtype: torch.dtype, wanted: tuple[bool, ...], kept: int) -> None:
        self.head, self.dtype = head, dtype
        self.finite, self.vocab_size = finite_columns(head, dtype)
        vocab = head.weight.shape[0]
        like = torch.empty(0, dtype=dtype, device=hidden.device)
        # the first chunk overwrites what is in them; with no chunk they are the zero gradient
        make = like.new_empty if kept else like.new_zeros
        self.d_hidden = make((kept, head.width)) if wanted[0] else None
        self.d_weight = make(head.weight.shape) if wanted[1] else None
        self.d_bias = like.new_zeros(vocab) if wanted[2] else None
        self.d_low_rank = make(head.low_rank.shape) if wanted[3] and head.low_rank is not None else None
        self.wants_gradient = any(wanted)
        self.buffer = self.spare = self.centre = like
        self.is_first = True

    def keeps_shifted(self, work: Work) -> bool:
        """Whether the backward formula reads z - m beside exp(z - m): a second buffer."""
        return self.wants_gradient and not {"entropy", "collision"}.isdisjoint(work.fields)

    def chunk(
        self, hidden: Tensor, targets: Tensor, c: Tensor, extras: Mapping[str, Tensor], work: Work, piece: slice
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Values of the statistics and the loss of one chunk; its gradients go into the buffers."""
        exp, shifted, slope, rows = read_chunk(self, hidden, targets, needs(work.returned), self.keeps_shifted(work))
        leaves = rows.leaves()
        with torch.enable_grad():
            values = statistics_of(leaves, work.returned)
            losses = work.objective(TokenStats(values, self.vocab_size, extras))
        loss = (losses.detach().double() * c).sum()
        if self.wants_gradient:
            grad = row_gradient([losses], [c.to(losses.dtype)], leaves)
            here = from_centre(rows, self.centre, self.head.shard)
            dz = to_gradient(exp, shifted, here, grad, self.finite, self.vocab_size)
            put_target(dz, targets, self.head.start, grad, self.vocab_size)
            if slope is not None:
                dz *= slope
            self._products(dz, hidden, piece, work.plan.skip_below)
        return {name: value.detach() for name, value in values.items()}, loss

    def _products(self, dz: Tensor, hidden: Tensor, piece: slice, skip_below: float) -> None:
        beta, scale = (0.0 if self.is_first else 1.0), self.head.scale
        if self.d_bias is not None:
            self.d_bias.add_(dz.sum(dim=0), alpha=scale)
        if skip_below:
            self._filtered_products(dz, hidden, piece, skip_below)
            return
        self.is_first = False
        for rows, factors in blocks(self.head, self.dtype):
            part = dz[:, rows]
            for (columns, factor), gradient in zip(factors, (self.d_weight, self.d_low_rank), strict=False):
                if self.d_hidden is not None:
                    self.d_hidden[piece, columns].addmm_(part, factor, beta=float(rows.start > 0), alpha=scale)
                if gradient is not None:
                    gradient[rows].addmm_(part.t(), hidden[:, columns], beta=beta, alpha=scale)

    def _filtered_products(self, dz: Tensor, hidden: Tensor, piece: slice, skip_below: float) -> None:
        """The same from the columns of dz that reach `skip_below`."""
        rows = torch.nonzero(torch.linalg.vector_norm(dz, float("inf"), dim=0) >= skip_below)[:, 0]
        part, scale = dz.index_select(1, rows), self.head.scale
        for (columns, factor), gradient in zip(self.head.factors, (self.d_weight, self.d_low_rank), strict=False):
            if gradient is not None and self.is_first:
                gradient.zero_()
            if self.d_hidden is not None:
                block = factor.detach().index_select(0, rows).to(self.dtype)
                self.d_hidden[piece, columns].addmm_(part, block, beta=0.0, alpha=scale)
            if gradient is not None:
                gradient.index_add_(0, rows, part.t() @ hidden[:, columns], alpha=scale)
        self.is_first = False

    def finish(self, tokens: int, kept: Tensor, everything: bool) -> Gradients:
        d_hidden = None if self.d_hidden is None else total(self.d_hidden, self.head.shard)
        if d_hidden is not None and not everything:
            d_hidden = d_hidden.new_zeros(tokens, d_hidden.shape[1]).index_copy_(0, kept, d_hidden)
        return Gradients(d_hidden, self.d_weight, self.d_bias, self.d_low_rank)


def read_chunk(
    state: _State, hidden: Tensor, targets: Tensor, needed: set[str], keeps_shifted: bool
) -> tuple[Tensor, Tensor | None, Tensor | None, Rows]:
    """exp(z - m), z - m where kept, the cap's slope, and the five numbers of a chunk of rows."""
    head, tokens = state.head, hidden.shape[0]
    vocab = head.weight.shape[0]
    if state.buffer.shape[0] < tokens:
        state.buffer = torch.empty(tokens, vocab, dtype=state.dtype, device=hidden.device)
        if keeps_shifted:
            state.spare = torch.empty_like(state.buffer)
    z = state.buffer[:tokens]
    parts = blocks(head, state.dtype, projected_rows(hidden))
    slopes = [project(hidden, factors, head, columns, z[:, columns]) for columns, factors in parts]
    slope = None if head.softcap is None else torch.cat([s for s in slopes if s is not None], dim=1)
    sums = Sums.start(tokens, needed, z)
    hole = take_target(z, targets, head.start, sums)
    exp = add_block(z, sums, hole, state.finite is not None, state.spare[:tokens] if keeps_shifted else None)
    state.centre = sums.m
    rows = merge(sums, head.shard, targets).rows(state.vocab_size)
    return exp, z if keeps_shifted else None, slope, rows


def _gather(
    pieces: list[dict[str, Tensor]], names: tuple[str, ...], dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    if not pieces:
        return [torch.zeros(0, dtype=torch.bool if n == "is_top1" else dtype, device=device) for n in names]
    return [torch.cat([piece[name] for piece in pieces]) for name in names]


__all__ = ["Gradients", "OnePass", "RowGradient", "Work", "read_chunk", "sweep"]
