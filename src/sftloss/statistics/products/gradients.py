"""The gradients of both factors of the logits, summed block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sftloss.statistics.head import Head
from sftloss.statistics.products.logits import factor_blocks, multiply
from sftloss.statistics.sharded import total
from sftloss.statistics.tokens import Counted


class Wanted(NamedTuple):
    """Which inputs of a fused loss want a gradient."""

    hidden: bool
    weight: bool
    bias: bool
    low_rank: bool

    @property
    def has_products(self) -> bool:
        """Whether a gradient takes a matrix product."""
        return self.hidden or self.weight or self.low_rank


class Gradients:
    """Gradients of a fused loss, summed in `dtype` block by block on the device of `like`; None where not wanted.

    The blocks of the first tokens must cover every column, because they overwrite what is there, unless the gradients
    start at zero. Where each row of the factors' gradients is written only once, it has the factor's dtype from the
    start and takes no memory in `dtype`.
    """

    def __init__(
        self,
        head: Head,
        wanted: Wanted,
        like: Tensor,
        tokens: int,
        dtype: torch.dtype,
        *,
        is_written_once: bool = False,
        starts_at_zero: bool = False,
    ) -> None:
        self.head, self.dtype, self.is_wanted, self.starts_at_zero = head, dtype, any(wanted), starts_at_zero
        empty = like.new_zeros if starts_at_zero else like.new_empty
        self.hidden = like.new_empty((tokens, head.width), dtype=dtype) if wanted.hidden else None
        self.factors = [
            empty(factor.shape, dtype=factor.dtype if is_written_once else dtype) if is_wanted else None
            for (_, factor), is_wanted in zip(head.factors, (wanted.weight, wanted.low_rank), strict=False)
        ]
        self.bias = like.new_zeros(head.weight.shape[0], dtype=dtype) if wanted.bias else None

    def add(self, dz: Tensor, hidden: Tensor, d_hidden: Tensor | None, tokens: slice, columns: slice) -> None:
        """Add the products of the block at these tokens and columns; the gradient in `hidden` goes to `d_hidden`."""
        scale, is_first = self.head.scale, tokens.start == 0 and not self.starts_at_zero
        if self.bias is not None:
            self.bias[columns].add_(dz.sum(dim=0, dtype=self.dtype), alpha=scale)
        for rows, factors in factor_blocks(self.head, dz.dtype, columns):
            part = dz[:, rows.start - columns.start : rows.stop - columns.start]
            for (read, factor), gradient in zip(factors, self.factors, strict=True):
                if d_hidden is not None:
                    multiply(d_hidden[:, read], part, factor, beta=float(rows.start > 0), alpha=scale)
                if gradient is not None:
                    multiply(gradient[rows], part.t(), hidden[:, read], beta=float(not is_first), alpha=scale)

    def of_tokens(self, tokens: slice) -> Tensor | None:
        """Return the gradient of some tokens' hidden states, as a view."""
        return None if self.hidden is None else self.hidden[tokens]

    def finish(self, counted: Counted) -> tuple[Tensor | None, ...]:
        """Return them in the order of :class:`Wanted`, zero at tokens that do not count."""
        # every rank holds the same hidden states, and a part of their gradient
        d_hidden = None if self.hidden is None else counted.put(total(self.hidden, self.head.shard))
        d_weight, d_low_rank = (*self.factors, None)[:2]
        return d_hidden, d_weight, self.bias, d_low_rank


def in_dtypes(gradients: Iterable[Tensor | None], inputs: Iterable[Tensor]) -> Iterator[Tensor | None]:
    """Yield each gradient in the dtype of its input."""
    return (None if value is None else value.to(like.dtype) for value, like in zip(gradients, inputs, strict=True))
