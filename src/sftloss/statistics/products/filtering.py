"""Gradient filtering: columns of dz with small entries only take no part in the products, and no mass is lost.

What is left out is replaced by a matrix of rank one (two where coefficients have both signs) with the same row sums and
column sums. The README beside this room gives the formulas. Random probes measure the error of the gradients, so the
threshold follows from the tolerance instead of the reverse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sftloss.statistics.products.gradients import Gradients
from sftloss.statistics.products.logits import factor_blocks, multiply
from sftloss.statistics.sharded import total
from sftloss.statistics.tokens import Filtered

GROUP = 256  # tokens filtered together: more of them need more columns, fewer make slower products
_FEWEST = 32  # tokens of a call; with fewer the measured error may be three times too low
_PROBES = 6  # random directions in which the error of each gradient is measured
_TERMS = 16  # corrections applied together: each time they read all of W, and read and write all of dW
_GATHERED, _DEVICE_GATHERED = 1024, 16384  # columns multiplied at a time: on a CPU as many as stay in the caches
_MOST = 0.5  # with more of the columns kept, the whole products are faster
_TRIES = 4
_ACCEPTED, _AIMED = 0.8, 0.7  # estimated error over the tolerance: the most, and what the next threshold aims at
_GROWTH = 1.5  # the error grows like threshold^(1 / _GROWTH), measured on a real model
_FIRST = 0.3  # the first threshold leaves out this part of the tolerance in dW; the error of dh is larger


class Correction(NamedTuple):
    """A matrix ``row column^T`` that replaces a part of what was left out of the dz of some tokens."""

    tokens: slice
    row: Tensor
    column: Tensor
    of_factors: list[Tensor | None]  # row^T hidden, for the factors that want a gradient


class TokenGroup:
    """Sums over the whole dz of a few tokens, added up block by block: thin products with the probes."""

    def __init__(self, rows: slice, hidden: Tensor, signs: Tensor | None, state: Filter) -> None:
        self.rows, self.hidden, self.signs = rows, hidden, signs
        leading = [torch.ones_like(hidden[:, 0]), *([] if signs is None else [signs.to(hidden.dtype)])]
        self.right = torch.cat([torch.stack(leading), *((hidden[:, read] @ x).t() for read, x in state.probes)])
        vocab = state.left.shape[1]
        self.of_rows = state.left.new_zeros(len(state.left), len(hidden), dtype=state.dtype)  # left dz^T
        self.of_columns = state.left.new_empty(len(self.right), vocab, dtype=state.dtype)  # right dz
        self.left, self.leading, self.scored = state.left, len(leading), state.probes[0][1].shape[1]

    def add(self, dz: Tensor, columns: slice) -> None:
        """Read a block of dz."""
        multiply(self.of_rows, self.left[:, columns], dz.t(), beta=1.0)
        part = self.of_columns.new_empty(dz.shape[1], len(self.right))  # so laid out, a processor multiplies faster
        multiply(part, dz.t(), self.right.t())
        self.of_columns[:, columns] = part.t()

    @property
    def probed(self) -> Tensor:
        """The probes of the factors' gradients."""
        return self.of_columns[self.leading :]

    def scores(self) -> Tensor:
        """Return how far each column is from a multiple of the usual one, by the probes of the hidden states."""
        mass, probed = self.of_columns[self.leading - 1], self.probed[: self.scored]
        is_usual = (mass.abs() <= mass.abs().mean()).to(mass.dtype)
        usual = (probed @ is_usual) / (mass @ is_usual)
        return torch.addr(probed, usual.nan_to_num(), mass, alpha=-1).square_().sum(dim=0).sqrt_()


@dataclass
class _Attempt:
    """The columns that a threshold keeps, what replaces the others, and the error that remains."""

    chosen: Tensor
    dropped: Tensor  # row sums of what is left out
    terms: list[tuple[Tensor, Tensor]]
    of_rows: Tensor  # probes of the error of dh
    of_columns: Tensor  # of dW
    worst: float  # relative error, the largest over the gradients


class Filter:
    """The filter of one call: its probes, its threshold, and what it has left out."""

    def __init__(self, tolerance: float, gradients: Gradients, product: torch.dtype, tokens: int) -> None:
        head, self.dtype = gradients.head, gradients.dtype
        self.gradients, self.product, self.device = gradients, product, head.weight.device
        self.tolerance = tolerance
        self.gathered = _GATHERED if self.device.type == "cpu" else _DEVICE_GATHERED
        self.threshold: float | None = None  # of a column's score
        self.is_on = tokens >= _FEWEST
        self.ranks = 1 if head.shard is None else torch.distributed.get_world_size(head.shard.group)
        generator = torch.Generator().manual_seed(0)
        self.probes = [(read, self._probe(factor.shape[1], generator)) for read, factor in head.factors]
        self.wanted = [gradient is not None for gradient in gradients.factors]
        rows = [head.weight.new_ones(1, len(head.weight), dtype=product)]
        if gradients.hidden is not None:
            rows += [self._projected(k, x) for k, (_, x) in enumerate(self.probes)]
        self.left = torch.cat(rows)
        self.sizes = [len(value) for value in rows[1:]], [x.shape[1] for _, x in self.probes]
        vocab = self.left.shape[1]
        # probes of dW, and of its error, summed over the tokens so far
        self.of_weight, self.of_error = (self.left.new_zeros(sum(self.sizes[1]), vocab, dtype=self.dtype) for _ in "ab")
        # sums for the report: tokens times kept columns, mass, squares of the probes of dh and of its error
        self.kept = self.tokens = self.mass = 0.0
        self.squares = torch.zeros(2, max(len(self.sizes[0]), 1), dtype=torch.float64)

        self.corrections: list[Correction] = []

    def _probe(self, width: int, generator: torch.Generator) -> Tensor:
        if width <= _PROBES:
            return torch.eye(width, dtype=self.product, device=self.device)
        return torch.randn(width, _PROBES, generator=generator, device="cpu").to(self.device, self.product)

    def _projected(self, k: int, x: Tensor) -> Tensor:
        """Return the products of the k-th factor of the head with its probes, transposed."""
        head = self.gradients.head
        blocks = factor_blocks(head, self.product, slice(0, len(head.weight)))
        return torch.cat([x.t().contiguous() @ factors[k][1].t() for _, factors in blocks], dim=1)

    def end_chunk(self) -> None:
        """Add the corrections where they pay; stop on every rank where one rank of a sharded head has stopped."""
        self.correct()
        if self.gradients.head.shard is not None:
            are_on = total(torch.tensor(float(self.is_on), device=self.device), self.gradients.head.shard)
            self.is_on = float(are_on) == self.ranks

    def finish(self, group: TokenGroup, dz: Tensor, d_hidden: Tensor | None, start: int) -> bool:
        """Add the filtered gradient of a group whose dz has been read; return False where filtering does not pay.

        `start` is the first token of the chunk among all.
        """
        # every rank must take part in the sum, whatever it has decided
        whole = total(group.of_rows[1:].clone(), self.gradients.head.shard)
        attempt = self._choose(group, dz, whole) if self.is_on else None
        if attempt is None:
            self.is_on = False
            self.skip(len(dz))
            self._add_to_sums(group, whole, None)
            return False
        if self.gradients.bias is not None:
            self.gradients.bias.add_(group.of_columns[0], alpha=self.gradients.head.scale)
        self._multiply(group, dz, d_hidden, attempt.chosen)
        for row, column in attempt.terms:
            of_factors = [
                None if gradient is None else row @ group.hidden[:, read].to(self.dtype)
                for (read, _), gradient in zip(self.gradients.head.factors, self.gradients.factors, strict=True)
            ]
            tokens = slice(start + group.rows.start, start + group.rows.stop)
            self.corrections.append(Correction(tokens, row, column, of_factors))
        self.tokens += len(dz)
        self.kept += len(dz) * len(attempt.chosen) / max(dz.shape[1], 1)
        self.mass += float(attempt.dropped.abs().sum())
        self._add_to_sums(group, whole, attempt)
        return True

    def skip(self, tokens: int) -> None:
        """Count tokens whose gradients are exact because filtering does not pay."""
        self.kept += tokens
        self.tokens += tokens

    def _add_to_sums(self, group: TokenGroup, whole: Tensor, attempt: _Attempt | None) -> None:
        """Add the probes of a group to those of the whole gradients."""
        self.of_weight += group.probed
        rows = [whole]
        if attempt is not None:
            self.of_error += attempt.of_columns
            rows.append(attempt.of_rows)
        for k, value in enumerate(rows):
            for j, square in enumerate(_squares(value, self.sizes[0])):
                self.squares[k, j] += float(square)

    def _of_factors(self, value: Tensor) -> list[Tensor]:
        """Return the squares of the probes of each factor's gradient that is wanted."""
        squares = _squares(value, self.sizes[1])
        return [square for square, is_wanted in zip(squares, self.wanted, strict=True) if is_wanted]

    def _choose(self, group: TokenGroup, dz: Tensor, whole: Tensor) -> _Attempt | None:
        """Find a threshold that keeps the error below the tolerance; None where too many columns remain.

        `whole` is the probed gradient of the hidden states, to which the errors of all ranks add up.
        """
        wholes = [square / self.ranks for square in _squares(whole, self.sizes[0])]
        wholes += self._of_factors(self.of_weight + group.probed)
        scores = group.scores()
        if self.threshold is None:
            self.threshold = _first_threshold(scores, _FIRST * self.tolerance)
        for _ in range(_TRIES):
            chosen = torch.nonzero(scores >= self.threshold)[:, 0]
            if len(chosen) > _MOST * dz.shape[1]:
                return None
            attempt = self._attempt(group, dz, chosen, wholes)
            if not math.isfinite(attempt.worst):
                return None
            over = attempt.worst / self.tolerance
            self.threshold *= min(max((_AIMED / max(over, 1e-9)) ** _GROWTH, 0.05), 4.0)
            if over <= _ACCEPTED:
                return attempt
        return None

    def _attempt(self, group: TokenGroup, dz: Tensor, chosen: Tensor, wholes: list[Tensor]) -> _Attempt:
        """Leave out all columns but the chosen ones, and measure the error in the direction of the probes."""
        kept = torch.zeros_like(group.of_rows)
        for ids in chosen.split(self.gathered):
            multiply(kept, self.left.index_select(1, ids), _columns(dz, ids).to(self.product).t(), beta=1.0)
        rows, columns = group.of_rows - kept, group.of_columns.index_fill(1, chosen, 0.0)
        r, q, terms, leading = rows[0], columns[0], [], group.leading
        if not bool(columns.any()):
            pass  # what is left out is zero
        elif group.signs is None:
            terms = [(r, q / q.sum())]
        else:
            signed, beside = r * group.signs, columns[1]
            scale, mass = beside.sum(), q.sum()
            terms = [(r, beside / scale), (signed, (q - beside * (mass / scale)) / scale)]
        of_rows, of_columns, right = rows[1:], columns[leading:], group.right[leading:].to(self.dtype)
        for row, column in terms:
            of_rows = torch.addr(of_rows, self.left[1:].to(self.dtype) @ column, row, alpha=-1)
            of_columns = torch.addr(of_columns, right @ row, column, alpha=-1)
        parts = _squares(of_rows, self.sizes[0]) + self._of_factors(self.of_error + of_columns)
        ratios = [torch.where(part > 0, part / whole, 0.0) for part, whole in zip(parts, wholes, strict=True)]
        worst = math.sqrt(float(torch.stack(ratios).amax()))
        # a NaN compares false and becomes 0 above
        is_finite = bool(torch.stack(parts).isfinite().all())
        return _Attempt(chosen, r, terms, of_rows, of_columns, worst if is_finite else math.nan)

    def _multiply(self, group: TokenGroup, dz: Tensor, d_hidden: Tensor | None, chosen: Tensor) -> None:
        """Add the products of the chosen columns; the gradient of the hidden states overwrites `d_hidden`."""
        head, factors = self.gradients.head, self.gradients.factors
        if d_hidden is not None:
            d_hidden.zero_()
        for ids in chosen.split(self.gathered):
            part = _columns(dz, ids).to(self.product)
            for (read, factor), gradient in zip(head.factors, factors, strict=True):
                if d_hidden is not None:
                    weight = factor.detach().index_select(0, ids).to(self.product)
                    multiply(d_hidden[:, read], part, weight, beta=1.0, alpha=head.scale)
                if gradient is not None:
                    product = gradient.new_empty(len(ids), gradient.shape[1])
                    multiply(product, part.t(), group.hidden[:, read])
                    gradient.index_add_(0, ids, product, alpha=head.scale)

    def correct(self, *, at_least: int = _TERMS) -> None:
        """Add the corrections to the gradients, where there are enough of them to pay for reading W and dW."""
        if len(self.corrections) < max(at_least, 1):
            return
        head, gradients = self.gradients.head, self.gradients
        columns = torch.stack([term.column for term in self.corrections])
        for rows, factors in factor_blocks(head, self.dtype, slice(0, len(head.weight))):
            for k, ((read, factor), gradient) in enumerate(zip(factors, gradients.factors, strict=True)):
                if gradient is not None:
                    of_rows = torch.stack([term.of_factors[k] for term in self.corrections])  # type: ignore[misc]
                    gradient[rows].addmm_(columns[:, rows].t(), of_rows, alpha=head.scale)
                if gradients.hidden is not None:
                    for term, moved in zip(self.corrections, columns[:, rows] @ factor, strict=True):
                        gradients.hidden[term.tokens, read].addr_(term.row, moved, alpha=head.scale)
        self.corrections = []

    def report(self, mass: float) -> Filtered:
        """Return what the call left out, the dropped mass in proportion to this one."""
        whole, error = self.squares[0], total(self.squares[1].to(self.device, self.dtype), self.gradients.head.shard)
        pairs = [(float(a), float(b)) for a, b in zip(error, whole, strict=True)]
        ours, theirs = self._of_factors(self.of_error), self._of_factors(self.of_weight)
        pairs += [(float(a), float(b)) for a, b in zip(ours, theirs, strict=True)]
        worst = max((math.sqrt(a / b) for a, b in pairs if b > 0), default=0.0)
        dropped = self.mass / mass if mass else 0.0
        return Filtered(kept=self.kept / max(self.tokens, 1), dropped=dropped, error=worst)


def _first_threshold(scores: Tensor, error: float) -> float:
    """Return the score below which all columns together are this share of all of them, in the sum of the squares."""
    ordered = scores.cpu().double().sort().values
    sums = ordered.square().cumsum(0)
    return float(ordered[min(int((sums <= error**2 * sums[-1]).sum()), len(ordered) - 1)])


def _columns(dz: Tensor, ids: Tensor) -> Tensor:
    return dz.t().index_select(0, ids).t()


def _squares(probes: Tensor, sizes: list[int]) -> list[Tensor]:
    """Return the sum of the squares of the probes of each gradient."""
    return [part.square().sum() for part in probes.split(sizes)] if sizes else []
