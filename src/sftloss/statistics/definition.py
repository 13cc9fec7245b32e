"""The statistics from logits by the autograd of PyTorch: the definition that every other way is tested against."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sftloss.statistics.backends.further import further_numbers
from sftloss.statistics.backends.rows import RowNumbers, Sums, lowest, statistics_of
from sftloss.statistics.tokens import (
    CANDIDATE_IDS,
    FIELDS,
    IGNORED,
    Counted,
    TokenStats,
    check_fields,
    check_ids,
    is_further,
)


def from_logits(
    logits: Float[Tensor, "tokens vocab"],
    targets: Int[Tensor, " tokens"],
    *,
    fields: Collection[str] = FIELDS,
    extras: Mapping[str, Tensor] | None = None,
) -> TokenStats:
    r"""Statistics of each row of logits, differentiable; what a loss is computed from when the logits are at hand.

    Args:
        logits: ``(tokens, vocab)``, any floating dtype; computed in float32 or better. ``-inf`` is legal and takes a
            token out of that row's vocabulary.
        targets: ``(tokens,)``, aligned: row t predicts ``targets[t]``. ``-100`` is ignored: every statistic is 0
            there and no gradient flows, whatever the row holds.
        fields: Which statistics to compute; by default all that take no number and no candidates. Those are computed
            when they are read.
        extras: A caller's own tensors, first axis ``tokens``, handed on as ``stats.extras``. ``candidate_ids``,
            ``(tokens, K)``, are those of ``candidate_logprob``.

    Returns:
        :class:`TokenStats` with fields of shape ``(tokens,)``, in nats.

    Raises:
        ValueError: If the shapes do not agree or a target is outside the vocabulary.

    Gradient:
        Flows through every differentiable statistic of the table in :class:`TokenStats`; exact near p = 1.

    Example:
        >>> stats = from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        >>> stats.target_logprob
        tensor([-0.1269])
    """
    check_ids("from_logits", targets, logits.shape[0], logits.shape[-1])
    check_fields("from_logits", fields)
    counted = Counted.of(targets != IGNORED)
    z = counted.take(logits).to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    finite = z.detach() > float("-inf")
    extras = extras or {}
    ids = extras.get(CANDIDATE_IDS)
    kept = counted.take(targets), finite, None if ids is None else counted.take(ids)
    values = _OnRead(lambda names: _statistics(z, *kept, counted, names))
    values |= _statistics(z, *kept, counted, fields)
    vocab_size = torch.full((targets.shape[0],), logits.shape[-1], device=z.device)
    vocab_size[targets != IGNORED] = finite.sum(dim=1)
    return TokenStats(values, vocab_size, extras)


class _OnRead(dict[str, Tensor]):
    """Statistics by name; those of `FURTHER` are computed when they are first read."""

    def __init__(self, compute: Callable[[Collection[str]], dict[str, Tensor]]) -> None:
        super().__init__()
        self.compute = compute

    def __missing__(self, name: str) -> Tensor:
        if not is_further(name):
            raise KeyError(name)
        self |= self.compute((name,))
        return self[name]


def _statistics(
    z: Tensor, targets: Tensor, finite: Tensor, ids: Tensor | None, counted: Counted, fields: Collection[str]
) -> dict[str, Tensor]:
    values = statistics_of(_row_numbers(z, targets, finite, ids, fields), fields)
    return {name: counted.put(value) for name, value in values.items()}


def _row_numbers(z: Tensor, targets: Tensor, finite: Tensor, ids: Tensor | None, fields: Collection[str]) -> RowNumbers:
    column = targets.long()[:, None]
    rest = z.scatter(1, column, float("-inf"))
    m, at = rest.detach().amax(dim=1, keepdim=True).clamp(min=lowest(z.dtype)), z.detach().gather(1, column)
    m = torch.where((m == lowest(z.dtype)) & (at > float("-inf")), at, m)
    shifted = rest - m
    exp = shifted.exp()
    total = exp.sum(dim=1).clamp(min=torch.finfo(z.dtype).tiny)
    r = exp / total[:, None]
    entropy = mean = None
    if "entropy" in fields:
        entropy = total.log() - (r * torch.where(exp > 0, shifted, 0.0)).sum(dim=1)
    if "mean_logprob" in fields:
        mean = torch.where(finite, z - m, 0.0).sum(dim=1) / finite.sum(dim=1)
    return RowNumbers(
        m=m[:, 0],
        target=z.gather(1, column)[:, 0] - m[:, 0],
        log_sum=total.log(),
        rest_entropy=entropy,
        rest_collision=r.square().sum(dim=1) if {"collision", "off_target_sq"} & set(fields) else None,
        mean=mean,
        **further_numbers(z, rest, targets, m[:, 0], Sums.start(fields, len(z), z.detach(), z.dtype, ids)),
    )
