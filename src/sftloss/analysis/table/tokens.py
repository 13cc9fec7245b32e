"""One batch through the model: the rows of the table its tokens become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from torch import Tensor

from sftloss.data.examples import Batch
from sftloss.decoder import Decoder
from sftloss.objectives import sequence_values_of
from sftloss.roles import RESPONSE
from sftloss.statistics import (
    FIELDS,
    IGNORED,
    Head,
    TokenSignal,
    TokenStats,
    from_logits,
    measure_tokens,
    token_statistics,
)
from sftloss.weights import role_weights
from sftloss.weights.sequences import sequence_values_read

Objectives = Mapping[str, Callable[[TokenStats], Tensor]]

_CHUNK_BYTES = 1 << 26  # float32 logits and their gradient of one objective at a time


def batch_tokens(
    decoder: Decoder, batch: Batch, objectives: Objectives, by_role: Mapping[str, float] | None = None
) -> pl.DataFrame:
    """Every target of the batch as a row, with its ``segment`` and whether a number of it is not finite.

    ``l2 * hidden_norm`` is the norm of the token's gradient in the head's weight, up to the head's constant scale, and
    an upper bound of it under a softcap. Without a readable head there is no ``hidden_norm``. ``end_logprob`` is the
    log-probability of a token that ends a turn anywhere in the same example, NaN where none does. Weights `by_role`
    decide what is trained where an objective compares the trained tokens of whole sequences; the column ``weight`` is
    the data's.
    """
    is_target = batch.targets != IGNORED
    targets = batch.targets[is_target]
    ends = torch.unique(targets[batch.is_end[is_target]])
    stats, signals, norms, end_logits = target_statistics(decoder, batch, is_target, objectives, ends, by_role)
    columns = {
        "segment": batch.segments[is_target],
        # the token predicted at a position is the next one of the same example
        "position": batch.position_ids[is_target] + 1,
        "token": targets,
        "role": batch.roles[is_target],
        "weight": batch.weights[is_target],
        "is_end": batch.is_end[is_target],
        **{name: getattr(stats, name) for name in FIELDS},
        "end_logprob": _end_logprob(batch, is_target, ends, end_logits.cpu()) - stats.logsumexp.cpu(),
        "vocab": torch.as_tensor(stats.vocab_size).expand(targets.shape[0]),
        **({} if norms is None else {"hidden_norm": norms}),
    }
    for name, signal in signals.items():
        columns |= {f"loss:{name}": signal.loss, f"l1:{name}": signal.l1, f"l2:{name}": signal.l2}
    frame = pl.DataFrame({name: _column(values) for name, values in columns.items()})
    return frame.with_columns(is_nonfinite=_is_nonfinite(list(signals)))


def target_statistics(
    decoder: Decoder,
    batch: Batch,
    is_target: Tensor,
    objectives: Objectives,
    ends: Tensor,
    by_role: Mapping[str, float] | None = None,
) -> tuple[TokenStats, Mapping[str, TokenSignal], Tensor | None, Tensor]:
    """Statistics, signals, norms of the hidden states where they can be read, and the logits of `ends`."""
    inputs = (batch.input_ids, batch.position_ids, batch.attention_mask)
    targets = batch.targets[is_target]
    weights = batch.weights[is_target]
    if by_role is not None:
        roles = batch.roles[is_target]
        weights = torch.where((weights == 0) & (roles == RESPONSE), 0.0, role_weights(roles, by_role))
    segments = batch.segments[is_target]
    if decoder.head is None:
        rows = decoder.logits(*inputs)
        rows = rows[is_target.to(rows.device)]
        extras = {name: value[is_target].to(rows.device) for name, value in batch.extras.items()}
        targets = targets.to(rows.device)
        if names := sequence_values_of(*objectives.values()):
            logprob = measure_logits(rows, targets, {})[0].target_logprob
            extras |= sequence_values_read(names, logprob, extras, segments, weights)
        stats, signals = measure_logits(rows, targets, objectives, extras=extras)
        return stats, signals, None, rows[:, ends.to(rows.device)].float()
    hidden = decoder.hidden(*inputs)
    hidden = hidden[is_target.to(hidden.device)]
    extras = {name: value[is_target].to(hidden.device) for name, value in batch.extras.items()}
    head, targets = decoder.head, targets.to(hidden.device)
    if names := sequence_values_of(*objectives.values()):
        logprob = token_statistics(hidden, head, targets, fields=("target_logprob",)).target_logprob
        extras |= sequence_values_read(names, logprob, extras, segments, weights)
    stats, signals = measure_tokens(hidden, head, targets, objectives, extras=extras)
    norms = torch.linalg.vector_norm(hidden.float(), dim=1)
    return stats, signals, norms, _rows_of(decoder.head, ends).logits(hidden.float())


def _rows_of(head: Head, ids: Tensor) -> Head:
    """The part of a head that gives the logits of a few tokens, in float32."""
    at = ids.to(head.weight.device)
    bias, low_rank = (None if part is None else part[at].float() for part in (head.bias, head.low_rank))
    return replace(head, weight=head.weight[at].float(), bias=bias, low_rank=low_rank)


def _end_logprob(batch: Batch, is_target: Tensor, ends: Tensor, logits: Tensor) -> Tensor:
    """The logit of ending a turn at each target, over the end tokens of its own example; NaN where there is none.

    What ends a turn is read off each example by itself, so the number does not depend on the batch.
    """
    segments, is_end = batch.segments[is_target], batch.is_end[is_target]
    own = torch.zeros(len(batch.examples), len(ends), dtype=torch.bool)
    own[segments[is_end], torch.searchsorted(ends, batch.targets[is_target][is_end])] = True
    logsums = torch.where(own[segments], logits, -torch.inf).logsumexp(1)
    return torch.where(own.any(1)[segments], logsums, torch.nan)


def measure_logits(
    logits: Tensor, targets: Tensor, objectives: Objectives, *, extras: Mapping[str, Tensor] | None = None
) -> tuple[TokenStats, Mapping[str, TokenSignal]]:
    """`measure_tokens` for models whose head cannot be read: from their logits, by autograd, a chunk at a time.

    Args:
        logits: ``(tokens, vocab)``.
        targets: ``(tokens,)``.
        objectives: Tokenwise objectives by name.
        extras: What they read of each token, first axis ``tokens``.

    Returns:
        As :func:`sftloss.statistics.measure_tokens`.
    """
    step = max(1, _CHUNK_BYTES // (4 * max(1, logits.shape[1])))
    parts: list[dict[str, Tensor]] = []
    for start in range(0, max(1, logits.shape[0]), step):
        piece = slice(start, start + step)
        with torch.enable_grad():
            z = logits[piece].detach().to(torch.promote_types(logits.dtype, torch.float32)).requires_grad_()
            stats = from_logits(z, targets[piece], extras={n: value[piece] for n, value in (extras or {}).items()})
            losses = {name: objective(stats) for name, objective in objectives.items()}
        part = {name: getattr(stats, name).detach() for name in FIELDS}
        part["vocab"] = torch.as_tensor(stats.vocab_size, device=z.device).expand(z.shape[0])
        for name, loss in losses.items():
            (dz,) = torch.autograd.grad(loss, z, torch.ones_like(loss), retain_graph=True)
            part[f"loss:{name}"] = loss.detach()
            part[f"l1:{name}"] = dz.abs().sum(dim=1)  # vector_norm adds up one by one, and loses digits
            part[f"l2:{name}"] = torch.linalg.vector_norm(dz, dim=1)
        parts.append(part)
    full = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    signals = {name: TokenSignal(*(full[f"{kind}:{name}"] for kind in ("loss", "l1", "l2"))) for name in objectives}
    return TokenStats({name: full[name] for name in FIELDS}, full["vocab"]), signals


def _column(values: Tensor) -> np.ndarray:
    values = values.detach()
    return (values.float() if values.is_floating_point() else values).cpu().numpy()


def _is_nonfinite(objectives: list[str]) -> pl.Expr:
    """All must be finite, but for log(1 - p), which is -inf where the vocabulary holds nothing but the target."""
    strict = ["target_logprob", "logsumexp", "entropy", "mean_logprob", "collision", "off_target_sq", "max_logprob"]
    strict += [f"{kind}:{name}" for name in objectives for kind in ("loss", "l1", "l2")]
    return ~pl.all_horizontal(pl.col(strict).is_finite()) | pl.col("other_logprob").is_nan()
