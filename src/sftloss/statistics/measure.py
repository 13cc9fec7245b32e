"""Statistics and logit-gradient norms of many objectives from one product, without any gradient of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sftloss.statistics.backends.plain import Chunk, Keep, LogitBlock, PlainBackend
from sftloss.statistics.backends.rows import FREE, RowGradient, RowNumbers, present, row_gradient, statistics_of
from sftloss.statistics.checks import check_inputs, checked_plan, read_objective
from sftloss.statistics.head import Head
from sftloss.statistics.plan import Buffers, Plan, cuts
from sftloss.statistics.products.chunks import read_chunk
from sftloss.statistics.sharded import total
from sftloss.statistics.tokens import (
    CANDIDATE_IDS,
    DETACHED,
    FIELDS,
    IGNORED,
    Counted,
    Objective,
    TokenStats,
    check_type,
)
from sftloss.statistics.two_pass import Request, read_tiles


@dataclass(frozen=True)
class TokenSignal:
    r"""One objective at each token, at coefficient 1: its value and the gradient it sends into the logits.

    Attributes:
        loss: Value in nats, ``(tokens,)``.
        l1: :math:`\lVert \partial \ell / \partial z \rVert_1`; for cross-entropy :math:`2 (1 - p_y)`.
        l2: :math:`\lVert \partial \ell / \partial z \rVert_2`.
    """

    loss: Tensor
    l1: Tensor
    l2: Tensor


@torch.no_grad()
def measure_tokens(
    hidden: Float[Tensor, "tokens hidden"],
    head: Head,
    targets: Int[Tensor, " tokens"],
    objectives: Mapping[str, Objective],
    *,
    extras: Mapping[str, Tensor] | None = None,
    plan: Plan | None = None,
) -> tuple[TokenStats, dict[str, TokenSignal]]:
    """Every statistic of every token, and the logit gradient of each objective, from one product with the head.

    Args:
        hidden: ``(tokens, hidden)``.
        head: The output head.
        targets: ``(tokens,)``, aligned with `hidden`; ``-100`` gives zeros.
        objectives: Tokenwise objectives by name.
        extras: What they read of each token, first axis ``tokens``.
        plan: How many tokens at a time.

    Returns:
        The statistics (``FIELDS`` and what the objectives read) and, by objective, its :class:`TokenSignal`. No
        gradient flows.

    Example:
        >>> from sftloss.objectives import cross_entropy
        >>> head = Head(torch.zeros(4, 2))
        >>> stats, signal = measure_tokens(torch.zeros(1, 2), head, torch.tensor([1]), {"ce": cross_entropy})
        >>> signal["ce"].l1
        tensor([1.5000])
    """
    check_inputs("measure_tokens", hidden, head, targets)
    for name, objective in objectives.items():
        cure = f"Write sftloss.objective({objective!r})."
        check_type("measure_tokens", f"objectives[{name!r}]", objective, Callable, cure)  # type: ignore[arg-type]
    plan, counted, extras = checked_plan("measure_tokens", plan), Counted.of(targets != IGNORED), extras or {}
    read = {name for objective in objectives.values() for name in read_objective(objective, extras).fields}
    fields = tuple(dict.fromkeys((*FIELDS, *sorted(read))))
    backend = PlainBackend.of(hidden, head)
    # the gradient of what reads these alone is a multiple of r: its norms are numbers of the row, and no logits stay
    is_tiled = read <= {*FREE, *DETACHED}
    step = plan.chunk(len(counted), head.common, backend.dtype.itemsize, is_device=backend.is_device)
    buffers, pieces, blocks = Buffers(hidden, backend.dtype), [], list[LogitBlock]()
    for piece in cuts(len(counted), max(len(counted), 1) if is_tiled else step):
        rows = {name: counted.take(value, piece) for name, value in extras.items()}
        states = counted.take(hidden, piece).to(backend.dtype)
        chunk = Chunk(states, counted.take(targets, piece), rows.get(CANDIDATE_IDS))
        if is_tiled:
            numbers = read_tiles(chunk, Request(backend, targets, fields, plan, chunk.ids))[0]
        else:
            blocks, numbers = read_chunk(backend, chunk, fields, buffers, Keep(shifted=True, is_whole=True), plan)
        pieces.append(_measured(backend, blocks, numbers, objectives, fields, rows))
    columns = {name: counted.put(torch.cat([values[name] for values in pieces])) for name in pieces[0]}
    stats = TokenStats({name: columns[name] for name in fields}, backend.vocab_size, extras)
    return stats, {n: TokenSignal(columns[f"loss:{n}"], columns[f"l1:{n}"], columns[f"l2:{n}"]) for n in objectives}


def _measured(
    backend: PlainBackend,
    blocks: list[LogitBlock],
    numbers: RowNumbers,
    objectives: Mapping[str, Objective],
    fields: Sequence[str],
    extras: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return every statistic of a chunk, and of each objective `loss:name`, `l1:name` and `l2:name`."""
    columns, leaves = statistics_of(numbers, fields), numbers.leaves()
    for name, objective in objectives.items():
        with torch.enable_grad():
            losses = objective(TokenStats(statistics_of(leaves, fields), backend.vocab_size, extras))
        grad = row_gradient([losses], [torch.ones_like(losses)], leaves)
        columns[f"loss:{name}"] = losses.detach()
        columns[f"l1:{name}"], columns[f"l2:{name}"] = _norms(backend, blocks, numbers, grad)
    return columns


def _norms(
    backend: PlainBackend, blocks: list[LogitBlock], numbers: RowNumbers, grad: RowGradient
) -> tuple[Tensor, Tensor]:
    """Norms of the gradient in the (capped) logits: two numbers where it is a multiple of r, else from the gradient."""
    if grad.is_plain:
        # not by squares, which underflow where the target is certain
        l2 = torch.hypot(grad.target, grad.log_sum * present(numbers.rest_collision).sqrt())
        return grad.target.abs() + grad.log_sum.abs(), l2
    l1, squares = torch.zeros_like(numbers.m), torch.zeros_like(numbers.m)
    for block in blocks:
        dz = backend.write(replace(block, value=block.value.clone()), numbers, grad)
        l1 += dz.abs_().sum(dim=1)  # vector_norm adds up one by one, which errs by 1e-4 over a large vocabulary
        squares += dz.square_().sum(dim=1)
    return total(l1, backend.head.shard), total(squares, backend.head.shard).sqrt()
