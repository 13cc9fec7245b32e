"""How far a trained model has moved from where it started, on data it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sftloss.data import batches, encode
from sftloss.data.examples import Batch, Example, Record
from sftloss.data.tokenizer import pad_id_of
from sftloss.decoder import Decoder, open_decoder
from sftloss.errors import DataError, ModelError
from sftloss.experiments.metrics.shapes import Metric, Ratio

_CHUNK_BYTES = 1 << 27  # logits of both models at a time


def forgetting(
    start: nn.Module | Decoder,
    now: nn.Module | Decoder,
    tokenizer: Any,
    rows: Sequence[Record | Example],
    *,
    max_length: int | None = None,
    tokens_per_batch: int = 4096,
) -> dict[str, Metric]:
    r"""What training took from a model on other data: token by token along that data's answers.

    ==================  ====================================================================================
    forget_kl           :math:`\sum_t \sum_j p^0_{tj} (\log p^0_{tj} - \log p_{tj}) / \sum_i T_i`, nats a token
    forget_change       :math:`\sum_t (\log p^0_{t,y} - \log p_{t,y}) / \sum_i T_i`, nats a token; above 0 is loss
    forget_accuracy     share of tokens that were a most probable one, now minus at the start
    ==================  ====================================================================================

    with :math:`p^0` the start. The divergence is over whole distributions, a chunk of tokens at a time, in float32.

    Args:
        start: The model before training.
        now: The model after; of the same vocabulary.
        tokenizer: Of both.
        rows: The second data file.
        max_length: Tokens kept of a record.
        tokens_per_batch: Rows times columns of a batch at most.

    Returns:
        Ratios over the rows.

    Raises:
        DataError: If there is no row.
        ModelError: If the two vocabularies differ.
        RowError: If a row cannot be encoded.
    """
    examples = [row if isinstance(row, Example) else encode(row, tokenizer, max_length=max_length) for row in rows]
    if not examples:
        raise DataError("forgetting: there is no row, give a second data file.")
    before, after = (model if isinstance(model, Decoder) else open_decoder(model) for model in (start, now))
    number = {id(example): i for i, example in enumerate(examples)}
    sums = np.zeros((4, len(examples)))
    with before.evaluating(), after.evaluating():
        for batch in batches(examples, pad_id=pad_id_of(tokenizer), tokens_per_batch=tokens_per_batch):
            chosen = batch.weights > 0
            place = np.array([number[id(example)] for example in batch.examples])[batch.segments[chosen].numpy()]
            columns = _moved(before, after, batch, chosen)
            for line, values in zip(sums, (*columns, torch.ones(len(place))), strict=True):
                line += np.bincount(place, values.double().cpu().numpy(), len(examples))
    names = ("forget_kl", "forget_change", "forget_accuracy")
    return {name: Ratio(line, sums[3]) for name, line in zip(names, sums, strict=False)}


def _moved(before: Decoder, after: Decoder, batch: Batch, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KL(start || now), NLL now minus start, top-1 now minus start of the chosen targets, each ``(tokens,)``."""
    rows = [_rows(decoder, batch, chosen) for decoder in (before, after)]
    targets = batch.targets[chosen]
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    step = max(1, _CHUNK_BYTES // (8 * before.vocab_size))
    for start in range(0, len(targets), step):
        piece = slice(start, start + step)
        old, new = (_logits(decoder, row[piece]) for decoder, row in zip((before, after), rows, strict=True))
        if old.shape != new.shape:
            raise ModelError(f"forgetting: the start has {old.shape[1]} tokens, the model {new.shape[1]}.")
        found.append(moved(old, new.to(old.device), targets[piece].to(old.device)))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]


def moved(
    old: Float[Tensor, "tokens vocab"], new: Float[Tensor, "tokens vocab"], targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """KL(old || new), difference of the target's loss and of top-1; a token that `old` excludes adds nothing."""
    log_old, log_new = old.log_softmax(dim=1), new.log_softmax(dim=1)
    terms = log_old.exp() * (log_old - log_new)
    kl = torch.where(log_old == float("-inf"), 0.0, terms).sum(dim=1).clamp(min=0.0)
    index = targets[:, None]
    top = [(z.gather(1, index)[:, 0] >= z.amax(dim=1)).to(kl.dtype) for z in (old, new)]
    return kl, (log_old - log_new).gather(1, index)[:, 0], top[1] - top[0]


def _rows(decoder: Decoder, batch: Batch, chosen: Tensor) -> Tensor:
    inputs = (batch.input_ids, batch.position_ids, batch.attention_mask)
    states = decoder.logits(*inputs) if decoder.head is None else decoder.hidden(*inputs)
    return states[chosen.to(states.device)]


def _logits(decoder: Decoder, rows: Tensor) -> Tensor:
    return (rows if decoder.head is None else decoder.head.logits(rows.to(decoder.head.weight.dtype))).float()
