"""How far training has moved a model, on data it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sftloss.data.examples import Batch, Example, Record
from sftloss.decoder import Decoder, open_decoder
from sftloss.errors import ModelError
from sftloss.experiments.metrics.shapes import Metric, Ratio
from sftloss.experiments.metrics.tokens import TOKENS_PER_BATCH, as_examples, numbered_batches

_CHUNK_BYTES = 1 << 27  # logits of both models at a time


def forgetting(
    start: nn.Module | Decoder,
    now: nn.Module | Decoder,
    tokenizer: Any,
    rows: Sequence[Record | Example],
) -> dict[str, Metric]:
    r"""Compare a model before and after training, token by token along the answers of other data.

    ==================  ====================================================================================
    forget_kl           :math:`\sum_t \sum_j p^0_{tj} (\log p^0_{tj} - \log p_{tj}) / \sum_i T_i`, nats a token
    forget_change       :math:`\sum_t (\log p^0_{t,y} - \log p_{t,y}) / \sum_i T_i`, nats a token; above 0 is loss
    forget_accuracy     share of tokens that were a most probable one, now minus at the start
    ==================  ====================================================================================

    with :math:`p^0` the start. The divergence is over whole distributions, a chunk of tokens at a time, in float32.

    Args:
        start: The model before training.
        now: The model after training, with the same vocabulary.
        tokenizer: The tokenizer of both.
        rows: The other data.

    Returns:
        Ratios over the rows.

    Raises:
        DataError: If there is no row.
        ModelError: If the two vocabularies differ.
        RowError: If a row cannot be encoded.
    """
    examples = as_examples(rows, tokenizer)
    before, after = (model if isinstance(model, Decoder) else open_decoder(model) for model in (start, now))
    sums = np.zeros((4, len(examples)))
    with before.evaluating(), after.evaluating():
        for batch, rows_of in numbered_batches(examples, tokenizer, TOKENS_PER_BATCH):
            columns = (*_drift(before, after, batch), torch.ones(len(rows_of)))
            for line, values in zip(sums, columns, strict=True):
                line += np.bincount(rows_of, values.double().cpu().numpy(), len(examples))
    names = ("forget_kl", "forget_change", "forget_accuracy")
    return {name: Ratio(line, sums[3]) for name, line in zip(names, sums, strict=False)}


def _drift(before: Decoder, after: Decoder, batch: Batch) -> tuple[Tensor, ...]:
    """:func:`token_drift` of the targets with a weight above 0, a chunk of tokens at a time."""
    chosen = batch.weights > 0
    models, targets = (before, after), batch.targets[chosen]
    states = [(hidden := _states(decoder, batch))[chosen.to(hidden.device)] for decoder in models]
    parts = []
    for piece in torch.arange(len(targets)).split(max(1, _CHUNK_BYTES // (8 * before.vocab_size))):
        old, new = (_logits(decoder, rows[piece]) for decoder, rows in zip(models, states, strict=True))
        if old.shape != new.shape:
            raise ModelError(f"the model before training has {old.shape[1]} tokens, after it {new.shape[1]}")
        parts.append(token_drift(old, new.to(old.device), targets[piece].to(old.device)))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def token_drift(
    old: Float[Tensor, "tokens vocab"], new: Float[Tensor, "tokens vocab"], targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """KL(old || new), loss of the target now minus before, top-1 now minus before, ``(tokens,)`` each.

    A token that `old` excludes (logit -inf) adds nothing.
    """
    log_old, log_new = old.log_softmax(dim=1), new.log_softmax(dim=1)
    terms = log_old.exp() * (log_old - log_new)
    kl = torch.where(log_old == float("-inf"), 0.0, terms).sum(dim=1).clamp(min=0.0)
    index = targets[:, None]
    top = [(z.gather(1, index)[:, 0] >= z.amax(dim=1)).to(kl.dtype) for z in (old, new)]
    return kl, (log_old - log_new).gather(1, index)[:, 0], top[1] - top[0]


def _states(decoder: Decoder, batch: Batch) -> Tensor:
    run = decoder.logits if decoder.head is None else decoder.hidden
    return run(batch.input_ids, batch.position_ids, batch.attention_mask)


def _logits(decoder: Decoder, states: Tensor) -> Tensor:
    return (states if decoder.head is None else decoder.head.logits(states.to(decoder.head.weight.dtype))).float()
