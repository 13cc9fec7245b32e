"""Losses of whole distributions, a teacher's beside a student's, without holding the logits of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sftloss.statistics.boundary import first_order, not_traced
from sftloss.statistics.engine import check_inputs
from sftloss.statistics.head import Head, compute_dtype
from sftloss.statistics.plan import Plan

Source = tuple[Tensor, Head]


@not_traced
def map_logits(
    function: Callable[..., Tensor], *sources: Source, rows: Sequence[Tensor] = (), plan: Plan | None = None
) -> Tensor:
    r"""Apply a function of whole next-token distributions chunk by chunk; backward recomputes each chunk.

    .. math:: \ell_i = F(z^{(1)}_i, z^{(2)}_i, \dots; x_i), \qquad z^{(k)} = \mathrm{head}_k(h^{(k)})

    Serves what no few statistics can say, such as the divergence from a teacher. Two products with each head forward
    and backward together, and two more for each gradient wanted; memory is that of one chunk of logits of each source
    and of what `function` keeps of them.

    Args:
        function: Takes one ``(chunk, vocab)`` matrix of logits for each source, in float32 or better, then a chunk of
            each of `rows`; gives one value a token, ``(chunk,)``. It must look at one token at a time.
        sources: Pairs ``(hidden, head)``, hidden ``(tokens, hidden)``, all of the same tokens; the vocabularies and
            widths may differ if `function` does not mind.
        rows: Tensors of ``(tokens, ...)`` that are cut alike and carry no gradient: targets, weights.
        plan: `plan.tokens` is the chunk; by default what `one_pass` would take, shared by the sources.

    Returns:
        ``(tokens,)``, differentiable; multiply by the coefficients and sum.

    Raises:
        ValueError: If there is no source, tokens do not agree, a head is a shard, or `function` does not give one
            value a token.

    Gradient:
        Exact, in every source's hidden states and tensors of its head that want it: a teacher under
        ``torch.no_grad()`` or detached gets none. What `function` closes over gets none. Second derivatives raise.

    Example:
        >>> def kl(student, teacher):
        ...     p = teacher.softmax(-1)
        ...     return (p * (teacher.log_softmax(-1) - student.log_softmax(-1))).sum(-1)
        >>> head, hidden = Head(torch.eye(2)), torch.tensor([[1.0, 0.0]])
        >>> map_logits(kl, (hidden, head), (2 * hidden, head))
        tensor([0.0671])

    Source:
        Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015 (arXiv:1503.02531), is the use it is for.
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
    step = max(1, (plan or Plan()).chunk(tokens, 1, width))
    work = _Work(function, tuple(head for _, head in sources), tuple(rows), step)
    flat = [tensor for hidden, head in sources for tensor in (hidden, head.weight, head.bias, head.low_rank)]
    out: Tensor = _MapLogits.apply(work, *flat)
    return out


@dataclass(frozen=True)
class _Work:
    """Everything of one call that is not differentiated."""

    function: Callable[..., Tensor]
    heads: tuple[Head, ...]
    rows: tuple[Tensor, ...]
    step: int

    def values(self, logits: Sequence[Tensor], piece: slice) -> Tensor:
        """The function of one chunk, held to its shape."""
        out = self.function(*logits, *(value[piece] for value in self.rows))
        if out.shape != logits[0].shape[:1]:
            raise ValueError(
                f"map_logits: the function gave {tuple(out.shape)} for {logits[0].shape[0]} tokens; one value a token."
            )
        return out


class _MapLogits(torch.autograd.Function):
    """(work, hidden, weight, bias, low_rank, hidden, weight, bias, low_rank, ...) -> (tokens,)."""

    @staticmethod
    def forward(ctx: Any, work: _Work, *flat: Tensor | None) -> Tensor:
        ctx.work = work
        ctx.save_for_backward(*flat)
        hidden = flat[0]
        assert hidden is not None
        out = hidden.new_empty(hidden.shape[0], dtype=compute_dtype(hidden))
        with torch.autocast(hidden.device.type, enabled=False):
            for piece in _pieces(hidden.shape[0], work.step):
                logits = [_logits(flat, k, head, piece)[1] for k, head in enumerate(work.heads)]
                out[piece] = work.values(logits, piece)
        return out

    @staticmethod
    @first_order("map_logits")
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        flat, work, wanted = ctx.saved_tensors, ctx.work, ctx.needs_input_grad[1:]
        grads: list[Tensor | None] = [
            torch.zeros_like(t, dtype=compute_dtype(t)) if w else None for t, w in zip(flat, wanted, strict=True)
        ]
        with torch.autocast(flat[0].device.type, enabled=False):
            for piece in _pieces(flat[0].shape[0], work.step):
                _add_chunk(flat, grads, work, piece, upstream[piece])
        return (None, *(None if g is None else g.to(t.dtype) for g, t in zip(grads, flat, strict=True)))


def _add_chunk(
    flat: Sequence[Tensor | None], grads: Sequence[Tensor | None], work: _Work, piece: slice, upstream: Tensor
) -> None:
    """Recompute a chunk's logits, pull the gradient back to them, and multiply it out."""
    made = [_logits(flat, k, head, piece) for k, head in enumerate(work.heads)]
    is_wanted = [any(g is not None for g in grads[4 * k : 4 * k + 4]) for k in range(len(made))]
    with torch.enable_grad():
        leaves = [z.requires_grad_(want) for (_, z), want in zip(made, is_wanted, strict=True)]
        out = work.values(leaves, piece)
    asked = [leaf for leaf in leaves if leaf.requires_grad]
    if not out.requires_grad:
        return
    found = iter(torch.autograd.grad(out, asked, upstream.to(out.dtype), allow_unused=True))
    for k, (head, (hidden, z)) in enumerate(zip(work.heads, made, strict=True)):
        dz = next(found) if is_wanted[k] else None
        if dz is None:
            continue
        if head.softcap is not None:
            dz = dz * (1 - (z.detach() / head.softcap).square())
        d_hidden, d_weight, d_bias, d_low_rank = grads[4 * k : 4 * k + 4]
        for (columns, factor), gradient in zip(head.factors, (d_weight, d_low_rank), strict=False):
            if d_hidden is not None:
                d_hidden[piece, columns].addmm_(dz, factor.detach().to(dz.dtype), alpha=head.scale)
            if gradient is not None:
                gradient.addmm_(dz.t(), hidden[:, columns], alpha=head.scale)
        if d_bias is not None:
            d_bias.add_(dz.sum(dim=0), alpha=head.scale)


def _logits(flat: Sequence[Tensor | None], k: int, head: Head, piece: slice) -> tuple[Tensor, Tensor]:
    """Hidden states and logits of one source's chunk, both in the compute dtype, without a graph."""
    hidden, *of_head = flat[4 * k : 4 * k + 4]
    assert hidden is not None
    dtype = compute_dtype(hidden)
    h = hidden.detach()[piece].to(dtype)
    weight, bias, low_rank = (None if t is None else t.detach().to(dtype) for t in of_head)
    assert weight is not None
    whole = replace(head, weight=weight, bias=bias, low_rank=low_rank)
    return h, whole.logits(h)


def _pieces(tokens: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, tokens)) for start in range(0, tokens, step)]
