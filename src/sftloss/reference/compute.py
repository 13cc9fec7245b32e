"""The forward pass of a reference model over batches, and what is kept of each token."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from sftloss.data import Batch
from sftloss.decoder import Decoder
from sftloss.errors import DataError, ModelError, mention
from sftloss.reference.store import Kept, ReferenceWriter, row_key
from sftloss.statistics import IGNORED, Head, TokenStats, from_logits, token_statistics
from sftloss.statistics.products.logits import compute_dtype, project

_CHUNK_BYTES = 1 << 26  # logits of the tokens whose likeliest ids are sought at a time


def compute_rows(
    decoder: Decoder,
    batches: Iterable[Batch],
    kept: Kept,
    writer: ReferenceWriter,
    progress: Callable[[int, int | None], None] | None = None,
) -> None:
    """Run the model over the batches in which a row is new, and give the columns of these rows to the writer.

    Raises:
        DataError: If a log-probability is not finite.
        ModelError: If a token is outside the model's vocabulary, or there is no memory for a batch.
    """
    done = 0
    with decoder.evaluating():
        for batch in batches:
            keys = [row_key(example.input_ids) for example in batch.examples]
            if any(key not in writer for key in keys):
                for key, columns in zip(keys, batch_columns(decoder, batch, kept), strict=True):
                    writer.add(key, columns)
            done += sum(len(example.input_ids) for example in batch.examples)
            if progress is not None:
                progress(done, None)


def batch_columns(decoder: Decoder, batch: Batch, kept: Kept) -> list[dict[str, Tensor]]:
    """The columns of each example of a batch, laid out as its labels: what its first token has is 0."""
    if (largest := int(batch.input_ids.max())) >= decoder.vocab_size:
        problem = f"the data has token {largest}, the model has {decoder.vocab_size}"
        raise ModelError(problem, cure="the tokenizer belongs to another model")
    is_target = batch.targets != IGNORED
    try:
        values = _target_values(decoder, batch, is_target, kept)
    except torch.OutOfMemoryError as error:
        shape = " x ".join(map(str, batch.input_ids.shape))
        cure = f"give a smaller {mention('tokens_per_batch')}; what is on disk stays"
        raise ModelError(f"no memory for a batch of {shape} tokens", cure=cure) from error
    segments = batch.segments[is_target]
    counts = torch.bincount(segments, minlength=len(batch.examples)).tolist()
    parts = [value.split(counts) for value in values.values()]
    rows = ([torch.cat([part.new_zeros(1, *part.shape[1:]), part]) for part in row] for row in zip(*parts, strict=True))
    return [dict(zip(values, row, strict=True)) for row in rows]


def _target_values(decoder: Decoder, batch: Batch, is_target: Tensor, kept: Kept) -> dict[str, Tensor]:
    """The columns of all targets of a batch, one after another, on the CPU."""
    inputs, head = (batch.input_ids, batch.position_ids, batch.attention_mask), decoder.head
    fields = ("target_logprob", "logsumexp", *(("entropy",) if kept.has_entropy else ()))
    rows = decoder.logits(*inputs) if head is None else decoder.hidden(*inputs)
    rows, targets = rows[is_target.to(rows.device)], batch.targets[is_target].to(rows.device)
    stats: TokenStats
    values: dict[str, Any]
    if head is None:
        stats = from_logits(rows, targets, fields=fields)
    else:
        stats = token_statistics(rows, head, targets, fields=fields)
    if not stats.target_logprob.isfinite().all():
        bad = batch.segments[is_target][~stats.target_logprob.isfinite().cpu()]
        where, cure = batch.examples[int(bad[0])].origin, "leave the row out, or use another model"
        raise DataError("a log-probability under the reference model is not finite", where=where, cure=cure)
    values = {f"{kept.name}_logprob": stats.target_logprob, f"{kept.name}_entropy": stats.fields.get("entropy")}
    if kept.top_k:
        top = _likeliest(rows, head, stats.logsumexp, kept.top_k)
        values |= dict(zip(kept.columns[-2:], top, strict=True))
    columns = {name: values[name].cpu() for name in kept.columns}
    return {name: value.float() if value.is_floating_point() else value for name, value in columns.items()}


def _likeliest(rows: Tensor, head: Head | None, logsumexp: Tensor, count: int) -> list[Tensor]:
    """Ids and log-probabilities of the likeliest tokens, ``(tokens, K)`` each; -inf becomes the lowest number."""
    width = rows.shape[1] if head is None else head.vocab
    ids, logprobs = [], []
    for chunk, norm in zip(*(t.split(max(1, _CHUNK_BYTES // (4 * width))) for t in (rows, logsumexp)), strict=True):
        logits = chunk.to(compute_dtype(chunk))
        if head is not None:
            hidden, logits = logits, logits.new_empty(len(chunk), width)
            project(hidden, head, slice(0, width), logits)
        top = logits.topk(count, dim=1)
        ids.append(top.indices.int())
        logprobs.append((top.values - norm[:, None]).clamp(min=torch.finfo(torch.float32).min))
    return [torch.cat(ids), torch.cat(logprobs)]
