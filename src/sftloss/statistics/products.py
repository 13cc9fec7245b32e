"""The matrix products of a fused loss: logits from hidden states, and the gradients of both factors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sftloss.statistics.head import Head
from sftloss.statistics.sharded import total
from sftloss.statistics.tokens import Counted

_CAST_ROWS = 4096  # rows of a low-precision weight held as float32 at a time: 12 MiB at 768 columns


class Wanted(NamedTuple):
    """Which inputs of a fused loss want a gradient."""

    hidden: bool
    weight: bool
    bias: bool
    low_rank: bool


class Gradients:
    """Gradients of a fused loss, summed in `dtype` block by block on the device of `like`; None where not wanted.

    The blocks of the first tokens must cover every column, because they overwrite what is there. Where each row of the
    factors' gradients is written only once, it has the factor's dtype from the start and takes no memory in `dtype`.
    """

    def __init__(
        self, head: Head, wanted: Wanted, like: Tensor, tokens: int, dtype: torch.dtype, is_written_once: bool = False
    ) -> None:
        self.head, self.dtype, self.is_wanted = head, dtype, any(wanted)
        self.hidden = like.new_empty((tokens, head.width), dtype=dtype) if wanted.hidden else None
        self.factors = [
            like.new_empty(factor.shape, dtype=factor.dtype if is_written_once else dtype) if is_wanted else None
            for (_, factor), is_wanted in zip(head.factors, (wanted.weight, wanted.low_rank), strict=False)
        ]
        self.skip_below: Tensor | None = None  # only columns in which some dz reaches it take part in the products
        self.bias = like.new_zeros(head.weight.shape[0], dtype=dtype) if wanted.bias else None

    def add(self, dz: Tensor, hidden: Tensor, d_hidden: Tensor | None, tokens: slice, columns: slice) -> None:
        """Add the products of the block at these tokens and columns; the gradient in `hidden` goes to `d_hidden`."""
        scale, is_first = self.head.scale, tokens.start == 0
        if self.bias is not None:
            self.bias[columns].add_(dz.sum(dim=0, dtype=self.dtype), alpha=scale)
        if self.skip_below is None:
            for rows, factors in factor_blocks(self.head, dz.dtype, columns):
                part = dz[:, rows.start - columns.start : rows.stop - columns.start]
                for (read, factor), gradient in zip(factors, self.factors, strict=True):
                    if d_hidden is not None:
                        multiply(d_hidden[:, read], part, factor, beta=float(rows.start > 0), alpha=scale)
                    if gradient is not None:
                        multiply(gradient[rows], part.t(), hidden[:, read], beta=float(not is_first), alpha=scale)
            return
        chosen = torch.nonzero(torch.linalg.vector_norm(dz, float("inf"), dim=0) >= self.skip_below)[:, 0]
        part = dz.index_select(1, chosen)
        for (read, factor), gradient in zip(self.head.factors, self.factors, strict=True):
            if d_hidden is not None:
                factor = factor.detach()[columns].index_select(0, chosen).to(dz.dtype)
                multiply(d_hidden[:, read], part, factor, beta=float(columns.start > 0), alpha=scale)
            if gradient is not None:
                if is_first:
                    gradient[columns].zero_()
                product = gradient.new_empty(part.shape[1], gradient.shape[1])
                multiply(product, part.t(), hidden[:, read])
                gradient[columns].index_add_(0, chosen, product, alpha=scale)

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


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """Return the dtype of the statistics: float32, or float64 for float64."""
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def multiply(out: Tensor, a: Tensor, b: Tensor, *, beta: float = 0.0, alpha: float = 1.0) -> None:
    """Write beta out + alpha a b into `out`, summed in the precision of `out` where that is the higher one."""
    if torch.promote_types(a.dtype, out.dtype) != out.dtype:
        assert beta == 0, "a sum in lower precision than its factors loses digits"
        out.copy_(torch.mm(a, b).mul_(alpha))
    elif out.is_cuda and a.dtype != out.dtype:
        torch.addmm(out, a, b, out_dtype=out.dtype, beta=beta, alpha=alpha, out=out)
    else:
        out.addmm_(a.to(out.dtype), b.to(out.dtype), beta=beta, alpha=alpha)


def factor_blocks(head: Head, dtype: torch.dtype, columns: slice) -> Iterator[tuple[slice, list[tuple[slice, Tensor]]]]:
    """Yield the factors of some columns of the logits in `dtype`: uncopied and at once, or cast some rows at a time."""
    step = columns.stop - columns.start if head.weight.dtype == dtype else _CAST_ROWS
    for start in range(columns.start, columns.stop, step):
        rows = slice(start, min(start + step, columns.stop))
        yield rows, [(read, factor.detach()[rows].to(dtype)) for read, factor in head.factors]


def product(hidden: Tensor, head: Head, columns: slice, out: Tensor) -> None:
    """Write the bare product of the hidden states with some columns of the head into `out`."""
    for rows, factors in factor_blocks(head, hidden.dtype, columns):
        part = out[:, rows.start - columns.start : rows.stop - columns.start]
        for read, factor in factors:
            multiply(part, hidden[:, read], factor.t(), beta=float(read.start > 0))


def project(hidden: Tensor, head: Head, columns: slice, out: Tensor, slope: Tensor | None = None) -> None:
    """Write some columns of the logits into `out`, and d(capped)/d(uncapped) into `slope` where it is given."""
    product(hidden, head, columns, out)
    if head.bias is not None:
        out += head.bias.detach()[columns].to(out.dtype)
    if head.scale != 1.0:
        out *= head.scale
    if head.softcap is None:
        return
    out.div_(head.softcap).tanh_()
    if slope is not None:
        torch.square(out, out=slope).neg_().add_(1.0)
    out *= head.softcap


def vocabulary(head: Head, dtype: torch.dtype) -> tuple[Tensor | None, int | Tensor]:
    """Return which columns are in the vocabulary (1 and 0; None for all) and how many, without a wait for a device."""
    if head.bias is None or head.softcap is not None:
        return None, head.vocab
    is_finite = (head.bias.detach() > float("-inf")).to(dtype)
    return is_finite, total(is_finite.sum(), head.shard)
