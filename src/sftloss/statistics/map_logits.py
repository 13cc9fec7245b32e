"""Losses of whole distributions, such as the divergence from a teacher, without holding the logits of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sftloss.statistics.checks import check_inputs, checked_plan, not_traced, refuse_second_order
from sftloss.statistics.head import Head
from sftloss.statistics.plan import Plan, cuts
from sftloss.statistics.products import Gradients, Wanted, compute_dtype, in_dtypes, project
from sftloss.statistics.tokens import Counted

Source = tuple[Tensor, Head]


@not_traced
def map_logits(
    function: Callable[..., Tensor], *sources: Source, rows: Sequence[Tensor] = (), plan: Plan | None = None
) -> Tensor:
    r"""Apply a function of whole next-token distributions chunk by chunk; backward recomputes each chunk.

    .. math:: \ell_i = F(z^{(1)}_i, z^{(2)}_i, \dots; x_i), \qquad z^{(k)} = \mathrm{head}_k(h^{(k)})

    Use it for what a few statistics cannot express, such as the divergence from a teacher. It costs two products with
    each head, forward and backward together, and one more for each gradient. Memory is one chunk of logits of each
    source, and what `function` keeps of them.

    Args:
        function: Takes one ``(chunk, vocab)`` matrix of logits for each source, in float32 or better, then a chunk of
            each of `rows`. Returns one value a token, ``(chunk,)``. It must treat each token on its own.
        sources: Pairs ``(hidden, head)``, hidden ``(tokens, hidden)``, all of the same tokens. Vocabularies and widths
            may differ where `function` allows it.
        rows: Tensors of ``(tokens, ...)`` without gradient, cut into the same chunks: targets, weights.
        plan: `plan.tokens` is the chunk. By default it is as large as in one pass, shared by the sources.

    Returns:
        ``(tokens,)``, differentiable; multiply by the coefficients and sum.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If there is no source, tokens do not agree, a head is a shard, or `function` does not give one
            value a token.

    Gradient:
        Exact, in the hidden states and head tensors of every source that require one: a teacher under
        ``torch.no_grad()`` or detached gets none. Tensors that `function` closes over get none. Second derivatives
        raise.

    Example:
        >>> def kl(student, teacher):
        ...     p = teacher.softmax(-1)
        ...     return (p * (teacher.log_softmax(-1) - student.log_softmax(-1))).sum(-1)
        >>> head, hidden = Head(torch.eye(2)), torch.tensor([[1.0, 0.0]])
        >>> map_logits(kl, (hidden, head), (2 * hidden, head))
        tensor([0.0671])

    Source:
        Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015 (arXiv:1503.02531), is its main use.
    """
    if not sources:
        raise ValueError("map_logits: give at least one (hidden, head) pair.")
    tokens = sources[0][0].shape[0]
    for hidden, head in sources:
        check_inputs("map_logits", hidden, head, hidden.new_zeros(tokens, dtype=torch.int64))
        if head.shard is not None:
            raise ValueError("map_logits: a shard of a head holds no whole distribution; gather the head first.")
    for value in rows:
        if value.shape[:1] != (tokens,):
            raise ValueError(f"map_logits: rows must have {tokens} tokens like hidden, got {tuple(value.shape)}.")
    width = sum(head.weight.shape[0] * compute_dtype(hidden).itemsize for hidden, head in sources)
    step = max(1, checked_plan("map_logits", plan).chunk(tokens, 1, width))
    call = _Call(function, tuple(head for _, head in sources), tuple(rows), tuple(cuts(tokens, step)))
    flat = [tensor for hidden, head in sources for tensor in (hidden, head.weight, head.bias, head.low_rank)]
    out: Tensor = _MapLogits.apply(call, *flat)
    return out


@dataclass(frozen=True)
class _Call:
    """The arguments of one call that are not differentiated."""

    function: Callable[..., Tensor]
    heads: tuple[Head, ...]
    rows: tuple[Tensor, ...]
    pieces: tuple[slice, ...]

    def sources(self, flat: Sequence[Tensor]) -> list[Source]:
        return list(zip(flat[::4], self.heads, strict=True))

    def values(self, logits: Sequence[Tensor], piece: slice) -> Tensor:
        """Return the function of one chunk.

        Raises:
            ValueError: If it does not have one value a token.
        """
        out = self.function(*logits, *(value[piece] for value in self.rows))
        if out.shape != logits[0].shape[:1]:
            raise ValueError(
                f"map_logits: the function gave {tuple(out.shape)} for {logits[0].shape[0]} tokens; one value a token."
            )
        return out


class _MapLogits(torch.autograd.Function):
    """(call, hidden, weight, bias, low_rank, hidden, weight, bias, low_rank, ...) -> (tokens,)."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *flat: Tensor) -> Tensor:
        ctx.call, hidden = call, flat[0]
        ctx.save_for_backward(*flat)
        out = hidden.new_empty(hidden.shape[0], dtype=compute_dtype(hidden))
        with torch.autocast(hidden.device.type, enabled=False):
            for piece in call.pieces:
                out[piece] = call.values([_logits(source, piece)[1] for source in call.sources(flat)], piece)
        return out

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order("map_logits")
        flat, call = ctx.saved_tensors, ctx.call
        sources, flags = call.sources(flat), ctx.needs_input_grad[1:]
        gradients = [
            Gradients(
                head, Wanted(*flags[4 * k : 4 * k + 4]), hidden, len(hidden), compute_dtype(hidden), is_zeroed=True
            )
            for k, (hidden, head) in enumerate(sources)
        ]
        with torch.autocast(upstream.device.type, enabled=False):
            for piece in call.pieces:
                _add_chunk(sources, gradients, call, piece, upstream[piece])
        every = Counted(None, None, len(upstream))
        return None, *in_dtypes((value for source in gradients for value in source.finish(every)), flat)


def _add_chunk(
    sources: Sequence[Source], gradients: Sequence[Gradients], call: _Call, piece: slice, upstream: Tensor
) -> None:
    """Recompute a chunk's logits, pull the gradient back to them, and add its products."""
    chunks = [_logits(source, piece) for source in sources]
    leaves = [z.requires_grad_(gradient.is_wanted) for (_, z), gradient in zip(chunks, gradients, strict=True)]
    with torch.enable_grad():
        out = call.values(leaves, piece)
    if not out.requires_grad:
        return
    learning = [leaf for leaf in leaves if leaf.requires_grad]
    of_leaves = iter(torch.autograd.grad(out, learning, upstream.to(out.dtype), allow_unused=True))
    for (hidden, z), gradient in zip(chunks, gradients, strict=True):
        dz = next(of_leaves) if z.requires_grad else None
        if dz is None:
            continue
        head = gradient.head
        if head.softcap is not None:
            dz = dz * (1 - (z.detach() / head.softcap).square())
        gradient.add(dz, hidden, gradient.of_tokens(piece), piece, slice(0, z.shape[1]))


def _logits(source: Source, piece: slice) -> tuple[Tensor, Tensor]:
    """Return hidden states and logits of one source's chunk, both in the compute dtype, without a graph."""
    hidden, head = source
    h = hidden.detach()[piece].to(compute_dtype(hidden))
    z = h.new_empty(h.shape[0], head.weight.shape[0])
    project(h, head, slice(0, z.shape[1]), z)
    return h, z
