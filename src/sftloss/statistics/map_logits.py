"""Losses of whole distributions, such as the divergence from a teacher, without holding the logits of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sftloss.statistics.checks import check_inputs, checked_plan, not_traced, refuse_second_order
from sftloss.statistics.head import Head
from sftloss.statistics.plan import Plan, cuts
from sftloss.statistics.products.gradients import Gradients, Wanted, in_dtypes
from sftloss.statistics.products.logits import compute_dtype, project
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
        ValueError: If there is no source, tokens do not agree, a head is a shard, the plan has a tolerance, or
            `function` does not give one value a token.

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
    plan = checked_plan("map_logits", plan)
    if plan.tolerance:
        raise ValueError(
            "map_logits: Plan(tolerance=...) filters gradients whose entries off the target have one sign in each row. "
            "Those of a function of whole distributions have both signs, so a matrix of rank one cannot replace what "
            "is left out. Leave tolerance at 0."
        )
    width = sum(head.weight.shape[0] * compute_dtype(hidden).itemsize for hidden, head in sources)
    step = max(1, plan.chunk(tokens, 1, width))
    call = _Call(function, tuple(head for _, head in sources), tuple(rows), tuple(cuts(tokens, step)))
    flat = [tensor for hidden, head in sources for tensor in (hidden, head.weight, head.bias, head.low_rank)]
    out: Tensor = _MapLogits.apply(call, *flat)
    return out


class _Call(NamedTuple):
    """The arguments of one call that are not differentiated."""

    function: Callable[..., Tensor]
    heads: tuple[Head, ...]
    rows: tuple[Tensor, ...]
    pieces: tuple[slice, ...]

    def chunk(self, hidden: Sequence[Tensor], piece: slice) -> tuple[list[Tensor], list[Tensor]]:
        """Return hidden states and logits of each source's chunk, both in the compute dtype, without a graph."""
        chunks = [states.detach()[piece].to(compute_dtype(states)) for states in hidden]
        logits = [h.new_empty(len(h), head.weight.shape[0]) for h, head in zip(chunks, self.heads, strict=True)]
        for h, head, z in zip(chunks, self.heads, logits, strict=True):
            project(h, head, slice(0, z.shape[1]), z)
        return chunks, logits

    def values(self, logits: Sequence[Tensor], piece: slice) -> Tensor:
        """Return the function of one chunk; refuse one that does not have one value a token."""
        out, tokens = self.function(*logits, *(value[piece] for value in self.rows)), len(logits[0])
        if out.shape != (tokens,):
            raise ValueError(
                f"map_logits: the function gave {tuple(out.shape)} for {tokens} tokens; one value a token."
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
                out[piece] = call.values(call.chunk(flat[::4], piece)[1], piece)
        return out

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order("map_logits")
        flat, call = ctx.saved_tensors, ctx.call
        gradients = []
        for k, head in enumerate(call.heads):
            hidden, wanted = flat[4 * k], Wanted(*ctx.needs_input_grad[4 * k + 1 : 4 * k + 5])
            gradients.append(Gradients(head, wanted, hidden, len(hidden), compute_dtype(hidden)))
        with torch.autocast(upstream.device.type, enabled=False):
            for piece in call.pieces:
                _add_chunk(gradients, call, flat[::4], piece, upstream[piece])
        every = Counted(None, len(upstream))
        return None, *in_dtypes((value for source in gradients for value in source.finish(every)), flat)


def _add_chunk(
    gradients: Sequence[Gradients], call: _Call, hidden: Sequence[Tensor], piece: slice, upstream: Tensor
) -> None:
    """Recompute a chunk's logits, pull the gradient back to them, and add its products."""
    chunks, logits = call.chunk(hidden, piece)
    learning = [k for k, gradient in enumerate(gradients) if gradient.is_wanted]
    leaves = [logits[k].requires_grad_() for k in learning]
    with torch.enable_grad():
        # the sums over no column connect a function that reads no logits to the graph
        out = call.values(logits, piece) + sum(z[:, :0].sum(dim=1) for z in leaves)
    of_leaves = torch.autograd.grad(out, leaves, upstream.to(out.dtype), allow_unused=True, materialize_grads=True)
    for k, z, dz in zip(learning, leaves, of_leaves, strict=True):
        cap = call.heads[k].softcap
        dz = dz if cap is None else dz * (1 - (z.detach() / cap).square())
        gradients[k].add(dz, chunks[k], gradients[k].of_tokens(piece), piece, slice(0, z.shape[1]))
