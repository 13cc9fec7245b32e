"""Statistics and logit-gradient norms of many objectives from one product, without any gradient of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sftloss.statistics.backends.rows import RowGradient, Rows, needs, row_gradient, statistics_of
from sftloss.statistics.definition import IGNORED, check_targets, spread
from sftloss.statistics.head import Head, compute_dtype
from sftloss.statistics.one_pass import Block, _State, read_chunk
from sftloss.statistics.plan import Plan
from sftloss.statistics.sharded import total
from sftloss.statistics.tokens import FIELDS, TokenStats


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
    objectives: Mapping[str, Callable[[TokenStats], Tensor]],
    *,
    plan: Plan | None = None,
) -> tuple[TokenStats, dict[str, TokenSignal]]:
    """Every statistic of every token, and what each objective would send back, from one product with the head.

    Args:
        hidden: ``(tokens, hidden)``.
        head: The output head.
        targets: ``(tokens,)``, aligned with `hidden`; ``-100`` gives zeros.
        objectives: Tokenwise objectives by name.
        plan: How many tokens at a time.

    Returns:
        The statistics (all fields) and, by objective, its :class:`TokenSignal`. No gradient flows.

    Example:
        >>> from sftloss.objectives import cross_entropy
        >>> head = Head(torch.zeros(4, 2))
        >>> stats, signal = measure_tokens(torch.zeros(1, 2), head, torch.tensor([1]), {"ce": cross_entropy})
        >>> signal["ce"].l1
        tensor([1.5000])
    """
    check_targets("measure_tokens", targets, hidden.shape[0], head.vocab)
    dtype = compute_dtype(hidden)
    kept = torch.nonzero(targets != IGNORED)[:, 0]
    state, plan = _State(hidden, head, (False,) * 4, kept.shape[0]), plan or Plan()
    step = plan.chunk(kept.shape[0], head.common, dtype.itemsize, is_device=hidden.is_cuda)
    columns: dict[str, list[Tensor]] = {}
    for start in range(0, kept.shape[0], step):
        chosen = kept[start : start + step]
        tokens = hidden[chosen].to(dtype), targets[chosen]
        for name, value in _measure_chunk(state, tokens, objectives, plan).items():
            columns.setdefault(name, []).append(value)
    empty = hidden.new_zeros(0, dtype=dtype)
    full = {name: spread(torch.cat(values), kept, hidden.shape[0]) for name, values in columns.items()}

    def column(name: str) -> Tensor:
        return full[name] if name in full else spread(empty, kept, hidden.shape[0])

    stats = TokenStats({name: column(name) for name in FIELDS}, state.vocab_size)
    signals = {n: TokenSignal(column(f"loss:{n}"), column(f"l1:{n}"), column(f"l2:{n}")) for n in objectives}
    return stats, signals


def _measure_chunk(
    state: _State,
    tokens: tuple[Tensor, Tensor],
    objectives: Mapping[str, Callable[[TokenStats], Tensor]],
    plan: Plan,
) -> dict[str, Tensor]:
    held, rows = read_chunk(state, tokens, needs(FIELDS), True, plan)
    leaves = rows.leaves()
    out: dict[str, Tensor] = {}
    for index, (name, objective) in enumerate(objectives.items()):
        with torch.enable_grad():
            values = statistics_of(leaves, FIELDS)
            losses = objective(TokenStats(values, state.vocab_size))
        if index == 0:
            out |= {field: value.detach() for field, value in values.items()}
        grad = row_gradient([losses], [torch.ones_like(losses)], leaves)
        out[f"loss:{name}"] = losses.detach()
        out[f"l1:{name}"], out[f"l2:{name}"] = _norms(state, held, tokens[1], rows, grad)
    if not objectives:
        out |= {field: value.detach() for field, value in statistics_of(rows, FIELDS).items()}
    return out


def _norms(state: _State, held: list[Block], targets: Tensor, rows: Rows, grad: RowGradient) -> tuple[Tensor, Tensor]:
    """Norms of the gradient in the (capped) logits: two numbers where it is a multiple of r, else from the gradient."""
    if grad.is_plain:
        assert rows.rest_collision is not None
        l1 = grad.target.abs() + grad.log_sum.abs()
        l2 = (grad.target.square() + grad.log_sum.square() * rows.rest_collision).sqrt()
        return l1, l2
    l1, squares = torch.zeros_like(rows.m), torch.zeros_like(rows.m)
    for block in held:
        dz = state.to_gradient(replace(block, value=block.value.clone()), rows, targets, grad)
        l1 += torch.linalg.vector_norm(dz, 1, dim=1)
        squares += dz.square_().sum(dim=1)
    return total(l1, state.head.shard), total(squares, state.head.shard).sqrt()
