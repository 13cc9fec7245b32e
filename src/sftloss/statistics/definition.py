"""The statistics from logits, by PyTorch's own autograd: the definition all other ways are held to."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sftloss.statistics.backends.rows import Rows, lowest, needs, statistics_of
from sftloss.statistics.tokens import FIELDS, TokenStats

IGNORED = -100


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
        fields: Which statistics to compute; by default all of them.
        extras: A caller's own tensors, first axis ``tokens``, handed on as ``stats.extras``.

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
    check_targets("from_logits", targets, logits.shape[0], logits.shape[-1])
    kept = torch.nonzero(targets != IGNORED)[:, 0]
    tokens, everything = targets.shape[0], kept.shape[0] == targets.shape[0]
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    z = (logits if everything else logits.index_select(0, kept)).to(dtype)
    finite = z.detach() > float("-inf")
    values = statistics_of(_rows_of(z, targets[kept], finite, needs(fields)), fields)
    count = finite.sum(dim=1)
    if not everything:
        values = {name: spread(value, kept, tokens) for name, value in values.items()}
        count = torch.full((tokens,), logits.shape[-1], device=z.device).index_copy(0, kept, count)
    return TokenStats(values, count, extras or {})


def spread(value: Tensor, kept: Tensor, tokens: int) -> Tensor:
    """Put the values of the kept rows back in their places, zero elsewhere."""
    return torch.zeros(tokens, dtype=value.dtype, device=value.device).index_copy(0, kept, value)


def check_targets(who: str, targets: Tensor, tokens: int, vocab: int) -> None:
    """One sentence for the two mistakes everyone makes: no shift, and an id the head does not have."""
    if targets.shape != (tokens,):
        raise ValueError(
            f"{who}: there are {tokens} tokens, targets have shape {tuple(targets.shape)}. "
            "Flatten both, and shift first: hidden[:, :-1] predicts targets[:, 1:]."
        )
    if targets.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{who}: targets must be integer token ids, got {targets.dtype}.")
    if targets.is_cuda or tokens == 0:
        return  # looking would wait for the device; the gather itself asserts there
    bad = (targets != IGNORED) & ((targets < 0) | (targets >= vocab))
    if bad.any():
        where = int(torch.nonzero(bad)[0, 0])
        raise ValueError(
            f"{who}: target {int(targets[where])} at token {where} is outside the vocabulary of {vocab}. "
            f"Use {IGNORED} for tokens to ignore."
        )


def _rows_of(z: Tensor, targets: Tensor, finite: Tensor, needed: set[str]) -> Rows:
    column = targets.long()[:, None]
    rest = z.scatter(1, column, float("-inf"))
    m, at = rest.detach().amax(dim=1, keepdim=True).clamp(min=lowest(z.dtype)), z.detach().gather(1, column)
    m = torch.where((m == lowest(z.dtype)) & (at > float("-inf")), at, m)
    shifted = rest - m
    exp = shifted.exp()
    total = exp.sum(dim=1).clamp(min=torch.finfo(z.dtype).tiny)
    r = exp / total[:, None]
    entropy = mean = None
    if "rest_entropy" in needed:
        entropy = total.log() - (r * torch.where(exp > 0, shifted, 0.0)).sum(dim=1)
    if "mean" in needed:
        mean = torch.where(finite, z - m, 0.0).sum(dim=1) / finite.sum(dim=1)
    return Rows(
        m=m[:, 0],
        target=z.gather(1, column)[:, 0] - m[:, 0],
        log_sum=total.log(),
        rest_entropy=entropy,
        rest_collision=r.square().sum(dim=1) if "rest_collision" in needed else None,
        mean=mean,
    )
