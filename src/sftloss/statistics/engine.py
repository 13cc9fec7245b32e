"""The public door of the two-pass mode."""

from __future__ import annotations

from collections.abc import Collection

from jaxtyping import Float, Int
from torch import Tensor

from sftloss.statistics.backends.rows import FREE
from sftloss.statistics.boundary import not_traced
from sftloss.statistics.definition import check_targets
from sftloss.statistics.head import Head, finite_columns
from sftloss.statistics.plan import Plan
from sftloss.statistics.tokens import FIELDS, TokenStats
from sftloss.statistics.two_pass import Request, TwoPass


@not_traced
def token_statistics(
    hidden: Float[Tensor, "tokens hidden"],
    head: Head,
    targets: Int[Tensor, " tokens"],
    *,
    fields: Collection[str] = FIELDS,
    plan: Plan | None = None,
) -> TokenStats:
    r"""Statistics of every token without holding the logits: differentiable, recomputed in backward.

    Serves what one pass cannot: objectives that mix tokens, and a user's own autograd on the statistics.

    Args:
        hidden: ``(tokens, hidden)``, any floating dtype; statistics are computed in float32 or better.
        head: The output head.
        targets: ``(tokens,)``, already shifted; ``-100`` is ignored (statistics 0, gradient 0).
        fields: Statistics to compute; the cheapest set is ``("target_logprob", "logsumexp")``.
        plan: Tile sizes.

    Returns:
        :class:`TokenStats`, each field ``(tokens,)``, in nats.

    Raises:
        ValueError: If shapes, dtypes, devices or ids cannot be right.

    Gradient:
        Exact, in `hidden` and every tensor of `head`, whichever want it. Second derivatives raise.

    Example:
        >>> stats = token_statistics(torch.zeros(1, 2), Head(torch.zeros(4, 2)), torch.tensor([1]))
        >>> stats.entropy
        tensor([1.3863])
    """
    check_inputs("token_statistics", hidden, head, targets)
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        raise ValueError(f"token_statistics: there is no statistic {unknown[0]!r}; choose from {', '.join(FIELDS)}.")
    names = tuple(dict.fromkeys((*FREE, *fields)))
    request = Request(targets, names, head.scale, head.softcap, plan or Plan(), head.shard)
    values = TwoPass.apply(hidden, head.weight, head.bias, head.low_rank, request)
    return TokenStats(dict(zip(names, values, strict=True)), finite_columns(head, values[0].dtype)[1])


def check_inputs(who: str, hidden: Tensor, head: Head, targets: Tensor) -> None:
    """Shapes, dtypes and devices at the door, without waiting for a device."""
    if hidden.ndim != 2 or not hidden.is_floating_point():
        raise ValueError(
            f"{who}: hidden must be a floating (tokens, hidden) matrix, got {hidden.dtype} {tuple(hidden.shape)}. "
            "Flatten batch and time: hidden.reshape(-1, hidden.shape[-1])."
        )
    if hidden.shape[1] != head.width:
        beside = "" if head.low_rank is None else f", its adapter's input {head.low_rank.shape[1]} more beside it"
        raise ValueError(
            f"{who}: hidden is {hidden.shape[1]} wide, head.weight is (vocab {head.vocab}, hidden "
            f"{head.weight.shape[1]}){beside}."
        )
    for name, other in (("head.weight", head.weight), ("head.low_rank", head.low_rank), ("targets", targets)):
        if other is not None and other.device != hidden.device:
            raise ValueError(f"{who}: hidden is on {hidden.device}, {name} on {other.device}. Move them together.")
    check_targets(who, targets, hidden.shape[0], head.vocab)
