"""Gradients of the head by example: their squared norms, from the chunks that also give the hidden states' gradient."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sftloss.statistics.backends.backend import backend_of
from sftloss.statistics.checks import not_traced, read_objective
from sftloss.statistics.head import Head
from sftloss.statistics.one_pass import LossCall, Walk
from sftloss.statistics.plan import Plan
from sftloss.statistics.products.gradients import Gradients, Wanted
from sftloss.statistics.tokens import Objective, TokenStats


class Owners(NamedTuple):
    """Which example each token belongs to.

    Attributes:
        examples: Index of the example, ``(tokens,)``; the tokens of an example that count are neighbours.
        total: Number of examples.
        input_ids: Of a tied head, the input token at each place, ``(tokens,)``; None otherwise.
    """

    examples: Int[Tensor, " tokens"]
    total: int
    input_ids: Int[Tensor, " tokens"] | None = None


@dataclass(frozen=True)
class HeadSignal:
    """The gradient of a loss at the head.

    Attributes:
        losses: Coefficient times objective of each token, ``(tokens,)``.
        hidden: Gradient of the hidden states, ``(tokens, width)``.
        squares: Squared norm of each example's gradient, ``(examples,)`` in float64, by ``"weight"``, ``"bias"`` and
            ``"low_rank"``.
        rows: Of a tied head, the gradient of its row at each token's input by that token's own example,
            ``(tokens, hidden)``; None otherwise.
        whole: Gradients of the head's weight, bias and low-rank factor over all examples; None where not wanted.
    """

    losses: Tensor
    hidden: Tensor
    squares: Mapping[str, Tensor]
    rows: Tensor | None
    whole: Sequence[Tensor | None]


@not_traced
def head_signal(
    hidden: Float[Tensor, "tokens width"],
    head: Head,
    targets: Int[Tensor, " tokens"],
    coefficients: Float[Tensor, " tokens"],
    objective: Objective,
    owners: Owners,
    *,
    wanted: Collection[str],
    extras: Mapping[str, Tensor] | None = None,
    has_whole: bool = False,
) -> HeadSignal:
    """Backward pass of the fused loss with squared norms of the head's gradients by example; logits are never held.

    Args:
        hidden, head, targets, coefficients, objective, extras: As in :func:`sftloss.weighted_loss`.
        owners: The example of each token.
        wanted: Tensors of the head whose squares are made: ``"weight"``, ``"bias"``, ``"low_rank"``.
        has_whole: Whether the gradients over all examples are made too, of each tensor that requires one.
    """
    extras, hidden = extras or {}, hidden.detach()
    fields = tuple(sorted(read_objective(objective, extras).fields))
    call = LossCall(backend_of(hidden, head), targets, coefficients, objective, extras, fields, Plan())
    walk = _ExampleWalk(hidden, call, owners, wanted, has_whole=has_whole)
    _, stats, (d_hidden, *whole), unit = walk.run()
    assert d_hidden is not None
    with torch.no_grad():
        losses = objective(TokenStats(dict(zip(call.returned, stats, strict=True)), call.backend.vocab_size, extras))
        losses = torch.where(call.is_counted, losses.double() * coefficients, 0.0)
    squares = {name: value * unit.double().square() for name, value in walk.sums.squares.items()}
    rows = walk.sums.rows
    of_all = [None if value is None else value * unit for value in whole]
    return HeadSignal(losses, d_hidden * unit, squares, None if rows is None else rows * unit, of_all)


class _Run(NamedTuple):
    """The tokens of one example, by their place among those that count."""

    example: int
    start: int
    stop: int


class _ExampleWalk(Walk):
    """A walk whose chunks end where examples end, unless one example is larger than a chunk."""

    def __init__(
        self, hidden: Tensor, call: LossCall, owners: Owners, wanted: Collection[str], *, has_whole: bool
    ) -> None:
        super().__init__(hidden, call, Wanted(True, False, False, False))
        example_of = self.counted.take(owners.examples).cpu()
        examples, counts = torch.unique_consecutive(example_of, return_counts=True)
        if examples.numel() != examples.unique().numel():
            raise ValueError("head_signal: the tokens of an example must be neighbours.")
        stops = counts.cumsum(0)
        self.runs = [
            _Run(*entry) for entry in zip(examples.tolist(), (stops - counts).tolist(), stops.tolist(), strict=True)
        ]
        head = call.backend.head
        of_all = (has_whole and x is not None and x.requires_grad for x in (head.weight, head.bias, head.low_rank))
        self.sums = self.gradients = _Squares(self, owners, wanted, Wanted(True, *of_all))

    def pieces(self, step: int) -> Iterator[slice]:
        start, stop = 0, 0
        for run in self.runs:
            if run.stop - start > step and stop > start:
                yield slice(start, stop)
                start = stop
            while run.stop - start > step:
                yield slice(start, start + step)
                start += step
            stop = run.stop
        yield slice(start, stop)


class _Squares(Gradients):
    """The gradient of the hidden states, and squared norms by example of those of the head.

    Within a block of columns an example takes the cheaper of two forms: the product of its logit gradients with its
    hidden states, or the inner products of both between its tokens.
    """

    def __init__(self, walk: _ExampleWalk, owners: Owners, wanted: Collection[str], of_all: Wanted) -> None:
        head, hidden = walk.backend.head, walk.hidden
        super().__init__(head, of_all, hidden, len(walk.counted), walk.backend.dtype)
        self.runs, self.vocab = walk.runs, head.weight.shape[0]
        columns = [columns for columns, _ in head.factors]
        reads = zip(("weight", "low_rank"), columns, strict=False)
        self.reads = [(name, read) for name, read in reads if name in wanted]
        names = [name for name, _ in self.reads] + ["bias"] * (head.bias is not None and "bias" in wanted)
        self.squares = {name: hidden.new_zeros(owners.total, dtype=torch.float64) for name in names}
        self.partial: dict[str, Tensor] = {}  # the gradient of an example that is larger than a chunk
        self.rows: Tensor | None = None
        self.ids: Tensor | None = None
        self.places: dict[int, Tensor] = {}
        if owners.input_ids is not None:
            self.rows = hidden.new_zeros(hidden.shape[0], head.weight.shape[1], dtype=walk.backend.dtype)
            self.ids = owners.input_ids.to(hidden.device)
            order = owners.examples.argsort(stable=True)
            counts = torch.bincount(owners.examples.clamp(min=-1) + 1, minlength=owners.total + 1).cpu()
            self.places = dict(enumerate(order.to(hidden.device).split(counts.tolist()), start=-1))

    def add(self, dz: Tensor, hidden: Tensor, d_hidden: Tensor | None, tokens: slice, columns: slice) -> None:
        super().add(dz, hidden, d_hidden, tokens, columns)
        for run in self.runs:
            start, stop = max(run.start, tokens.start), min(run.stop, tokens.stop)
            if start < stop:
                mine = slice(start - tokens.start, stop - tokens.start)
                is_whole = (start, stop) == (run.start, run.stop)
                self._add_example(run, dz[mine], hidden[mine], columns, is_whole=is_whole, is_last=stop == run.stop)

    def _add_example(
        self, run: _Run, dz: Tensor, hidden: Tensor, columns: slice, *, is_whole: bool, is_last: bool
    ) -> None:
        scale = self.head.scale**2
        if "bias" in self.squares:
            summed = dz.sum(0)
            self._add_direct("bias", run, summed, columns, is_whole=is_whole, is_last=is_last)
        for name, read in self.reads:
            if not is_whole or dz.shape[0] > read.stop - read.start:
                product = dz.t() @ hidden[:, read]
                self._add_direct(name, run, product, columns, is_whole=is_whole, is_last=is_last)
                continue
            gram = dz @ dz.t()
            h = hidden[:, read]
            self.squares[name][run.example] += (gram * (h @ h.t())).sum(dtype=torch.float64) * scale
        if self.rows is not None and self.ids is not None:
            places = self.places[run.example]
            ids = self.ids[places] - self.head.start
            is_inside = (ids >= columns.start) & (ids < columns.stop)
            at, ids = places[is_inside], ids[is_inside] - columns.start
            read = self.head.factors[0][0]
            self.rows[at] += (dz[:, ids].t() @ hidden[:, read]) * self.head.scale

    def _add_direct(
        self, name: str, run: _Run, value: Tensor, columns: slice, *, is_whole: bool, is_last: bool
    ) -> None:
        if not is_whole:
            if name not in self.partial:
                self.partial[name] = value.new_zeros(self.vocab, *value.shape[1:])
            self.partial[name][columns] += value
            if not is_last:
                return
            value = self.partial[name][columns]
        size = torch.linalg.vector_norm(value, dtype=torch.float64)
        self.squares[name][run.example] += size.square() * self.head.scale**2
        if not is_whole:
            value.zero_()
