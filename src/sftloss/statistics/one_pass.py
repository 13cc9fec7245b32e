"""One pass: a chunk of tokens finishes its gradients while its logits are alive. Three products, no recomputation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sftloss.statistics.backends.backend import Backend
from sftloss.statistics.backends.plain import Chunk, Keep
from sftloss.statistics.backends.rows import FREE, needs_shifted_logits, row_gradient, statistics_of
from sftloss.statistics.checks import refuse_second_order
from sftloss.statistics.plan import Buffers, Plan, cuts
from sftloss.statistics.products.chunks import add_chunk, read_chunk
from sftloss.statistics.products.filtering import Filter
from sftloss.statistics.products.gradients import Gradients, Wanted, in_dtypes
from sftloss.statistics.products.logits import sum_dtype
from sftloss.statistics.tokens import CANDIDATE_IDS, IGNORED, Counted, Filtered, Objective, TokenStats


@dataclass(frozen=True)
class LossCall:
    """The arguments of one call of the fused loss that one pass does not differentiate."""

    backend: Backend
    targets: Tensor
    coefficients: Tensor
    objective: Objective
    extras: Mapping[str, Tensor]
    fields: tuple[str, ...]
    plan: Plan
    filtered: list[Filtered] = field(default_factory=list)  # filled by the pass

    @property
    def is_counted(self) -> Tensor:
        """Which tokens take part: those with a target and a coefficient."""
        return (self.targets != IGNORED) & (self.coefficients != 0)

    @property
    def returned(self) -> tuple[str, ...]:
        """The statistics handed back, in a fixed order: the free ones, those read and those asked for."""
        return tuple(dict.fromkeys((*FREE, *self.fields, *self.plan.fields)))


class OnePass(torch.autograd.Function):
    """(hidden, weight, bias, low_rank, call) -> the loss, then the statistics of `call.returned`, without a graph."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, low_rank: Tensor | None, call: LossCall
    ) -> tuple[Tensor, ...]:
        ctx.call, ctx.wanted = call, Wanted(*ctx.needs_input_grad[:4])
        loss, stats, ctx.gradients, ctx.unit = Walk(hidden, call, ctx.wanted).run()
        ctx.save_for_backward(hidden, weight, bias, low_rank)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*stats)
        return loss, *stats

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *of_statistics: None) -> tuple[Tensor | None, ...]:
        refuse_second_order("weighted_loss")
        if upstream is None:
            return None, None, None, None, None
        inputs, gradients, ctx.gradients = ctx.saved_tensors, ctx.gradients, None
        if gradients is None:  # a second backward through a retained graph: the first one took the buffers
            gradients = Walk(inputs[0], ctx.call, ctx.wanted).run()[2]
        factor = upstream * ctx.unit
        if ctx.call.backend.is_device or factor != 1:  # to look there is to wait for the device
            gradients = tuple(None if value is None else value.mul_(factor) for value in gradients)
        return *in_dtypes(gradients, inputs), None


class Walk:
    """One walk over the tokens that count, chunk by chunk; the gradients are those of sum (c / unit) f."""

    def __init__(self, hidden: Tensor, call: LossCall, wanted: Wanted) -> None:
        self.hidden, self.call, self.backend = hidden, call, call.backend
        backend, is_counted = call.backend, call.is_counted
        self.counted = Counted.of(is_counted, known=call.plan.counted)
        c = torch.where(is_counted, call.coefficients.detach().to(backend.dtype), 0.0)
        largest = c.abs().amax() if c.shape[0] else c.new_ones(())
        largest = torch.where(largest > 0, largest, 1.0)
        # where dz is rounded it must be of order one
        self.unit = largest if backend.product != backend.dtype else torch.ones_like(largest)
        self.coefficients = c / self.unit
        is_filtered = call.plan.tolerance > 0 and wanted.has_products
        self.gradients = Gradients(
            backend.head, wanted, hidden, len(self.counted), backend.dtype, starts_at_zero=is_filtered
        )
        self.filter = None
        if is_filtered:
            self.filter = Filter(call.plan.tolerance, self.gradients, backend.product, len(self.counted))
        self.buffers = Buffers(hidden, backend.dtype)
        needs_shifted = needs_shifted_logits(call.fields)
        has_cap = backend.head.softcap is not None
        self.keep = Keep(any(wanted) and needs_shifted, any(wanted) and has_cap, is_whole=True)

    def run(self) -> tuple[Tensor, list[Tensor], tuple[Tensor | None, ...], Tensor]:
        """Return the loss, the statistics of `call.returned`, the gradients of the inputs, and their unit."""
        backend, call, tokens = self.backend, self.call, len(self.counted)
        loss = torch.zeros((), dtype=sum_dtype(self.hidden.device), device=self.hidden.device)
        pieces: list[dict[str, Tensor]] = []
        step = call.plan.chunk(tokens, backend.head.common, backend.dtype.itemsize, is_device=backend.is_device)
        with torch.autocast(loss.device.type, enabled=False), torch.no_grad():
            for piece in self.pieces(step):
                values, share = self._chunk(piece)
                loss += share
                pieces.append(values)
            stats = [self.counted.put(torch.cat([values[name] for values in pieces])) for name in call.returned]
            if self.filter is not None:
                self.filter.correct(at_least=1)
                call.filtered[:] = [self.filter.report(float(self.coefficients.abs().sum()))]
            return (loss * self.unit).to(backend.dtype), stats, self.gradients.finish(self.counted), self.unit

    def pieces(self, step: int) -> Iterable[slice]:
        """The tokens that count, in chunks of about `step`."""
        return cuts(len(self.counted), step)

    def _chunk(self, piece: slice) -> tuple[dict[str, Tensor], Tensor]:
        """Return the statistics and the loss of one chunk; add its gradients."""
        take, call = self.counted.take, self.call
        extras = {name: take(value, piece) for name, value in call.extras.items()}
        hidden, targets = take(self.hidden, piece).to(self.backend.product), take(call.targets, piece)
        chunk = Chunk(hidden, targets, extras.get(CANDIDATE_IDS))
        c = take(self.coefficients, piece)
        blocks, numbers = read_chunk(self.backend, chunk, call.returned, self.buffers, self.keep, call.plan)
        leaves = numbers.leaves()
        with torch.enable_grad():
            values = statistics_of(leaves, call.returned)
            losses = call.objective(TokenStats(values, self.backend.vocab_size, extras))
        if self.gradients.is_wanted:
            grad = row_gradient([losses], [c.to(losses.dtype)], leaves)
            add_chunk(self.backend, blocks, (numbers, grad), self.gradients, piece, self.buffers, self.filter)
        wide = sum_dtype(c.device)
        return {name: value.detach() for name, value in values.items()}, (losses.detach().to(wide) * c).sum()
