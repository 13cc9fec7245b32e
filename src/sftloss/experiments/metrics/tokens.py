"""One forward pass over the held-out rows: what the model says at every scored token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sftloss.data import batches, encode
from sftloss.data.examples import Batch, Example, Record
from sftloss.data.tokenizer import pad_id_of
from sftloss.decoder import Decoder, open_decoder
from sftloss.errors import DataError
from sftloss.experiments.metrics.shapes import Floats
from sftloss.experiments.run.generate import end_ids
from sftloss.statistics import Head, TokenStats, from_logits, measure_tokens

TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class TokenTable:
    """Every scored token of a held-out set, in the order of the rows, and the groups of the rows.

    A token is scored where the data gives it a weight above 0: the answers and the tokens that end them.

    Attributes:
        example: Row of each token, int64 ``(tokens,)``; the columns below have the same shape.
        position: Which scored token of its row it is, from 0.
        nll: :math:`-\\log p_y`, nats.
        confidence: :math:`\\max_j p_j`.
        is_top1: Whether the target is a most probable token.
        entropy: :math:`-\\sum_j p_j \\log p_j`, nats.
        brier: :math:`\\sum_j (p_j - 1[j = y])^2`, from 0 to 2.
        end_probability: Probability of all tokens that end an answer, together.
        is_end: Whether the target is one of them.
        task, language, source: Group of each row, ``(examples,)``, empty where the data names none.
    """

    example: NDArray[np.int64]
    position: NDArray[np.int64]
    nll: Floats
    confidence: Floats
    is_top1: NDArray[np.bool_]
    entropy: Floats
    brier: Floats
    end_probability: Floats
    is_end: NDArray[np.bool_]
    task: NDArray[np.str_]
    language: NDArray[np.str_]
    source: NDArray[np.str_]

    @property
    def examples(self) -> int:
        """Number of rows."""
        return len(self.task)

    @property
    def lengths(self) -> Floats:
        """Scored tokens of each row, the end included, ``(examples,)``: the T of the losses."""
        return self.sum(np.ones(len(self.example)))

    def sum(self, values: NDArray[Any]) -> Floats:
        """Sums over the tokens of each row, ``(examples,)``."""
        weights = np.asarray(values, dtype=np.float64)
        return np.bincount(self.example, weights, self.examples).astype(np.float64)


def evaluate_tokens(
    model: nn.Module | Decoder,
    tokenizer: Any,
    rows: Sequence[Record | Example],
    *,
    max_length: int | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> TokenTable:
    """What a model says at every scored token of held-out rows, from one forward pass.

    Args:
        model: A causal language model, or one that `open_decoder` has opened.
        tokenizer: A transformers tokenizer.
        rows: The held-out set; records are encoded, examples are taken as they are.
        max_length: Tokens kept of a record.
        tokens_per_batch: Rows times columns of a batch at most; changes no more than the rounding.

    Returns:
        The table; its numbers are computed in float32 or better and held as float64.

    Raises:
        RowError: If a row cannot be encoded.
        DataError: If there is no row.
    """
    examples = [row if isinstance(row, Example) else encode(row, tokenizer, max_length=max_length) for row in rows]
    if not examples:
        raise DataError("evaluate_tokens: there is no held-out row, give a test file.")
    decoder = model if isinstance(model, Decoder) else open_decoder(model)
    ends = end_ids(examples, tokenizer)
    number = {id(example): i for i, example in enumerate(examples)}
    if len(number) < len(examples):
        raise ValueError("evaluate_tokens: an example stands in the list twice; give each row its own.")
    parts: list[dict[str, NDArray[Any]]] = []
    with decoder.evaluating():
        for batch in batches(examples, pad_id=pad_id_of(tokenizer), tokens_per_batch=tokens_per_batch):
            rows_of = np.array([number[id(example)] for example in batch.examples])
            parts.append(_batch_columns(decoder, batch, ends, rows_of))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((columns["position"], columns["example"]))
    ordered = {name: values[order] for name, values in columns.items()}
    groups = {name: np.array([getattr(e, name) or "" for e in examples]) for name in ("task", "language", "source")}
    return TokenTable(**ordered, **groups)


def scored(batch: Batch) -> Tensor:
    """Which targets count, ``(rows, columns)``: those to which the data gives a weight above 0."""
    return batch.weights > 0


def _batch_columns(
    decoder: Decoder, batch: Batch, ends: list[int], rows_of: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    chosen = scored(batch)
    stats, end_probability = _statistics(decoder, batch, chosen, torch.tensor(ends))
    log_p = stats.target_logprob.double()
    segments = batch.segments[chosen]
    # |p - onehot(y)|^2 = sum p^2 - 2 p_y + 1 = sum of the others' squares + (1 - p_y)^2, which does not cancel
    brier = stats.off_target_sq.double() + (2.0 * stats.other_logprob.double()).exp()
    order = chosen.long().cumsum(dim=1)[chosen] - 1  # one example a row
    columns = {
        "position": order,
        "nll": -log_p,
        "confidence": stats.max_logprob.double().exp(),
        "is_top1": stats.is_top1.bool(),
        "entropy": stats.entropy.double(),
        "brier": brier,
        "end_probability": end_probability.double(),
        "is_end": torch.isin(batch.targets[chosen], torch.tensor(ends)),
    }
    arrays: dict[str, NDArray[Any]] = {name: values.cpu().numpy() for name, values in columns.items()}
    return {"example": rows_of[segments.numpy()].astype(np.int64), **arrays}


def _statistics(decoder: Decoder, batch: Batch, chosen: Tensor, ends: Tensor) -> tuple[TokenStats, Tensor]:
    inputs = (batch.input_ids, batch.position_ids, batch.attention_mask)
    targets = batch.targets[chosen]
    if decoder.head is None:
        logits = decoder.logits(*inputs)
        rows = logits[chosen.to(logits.device)].float()
        stats = from_logits(rows, targets.to(rows.device))
        end_logits = rows[:, ends.to(rows.device)]
    else:
        hidden = decoder.hidden(*inputs)
        hidden = hidden[chosen.to(hidden.device)]
        stats, _ = measure_tokens(hidden, decoder.head, targets.to(hidden.device), {})
        end_logits = _columns_of(decoder.head, ends).logits(hidden.float())
    return stats, (end_logits - stats.logsumexp[:, None]).exp().sum(dim=1).clamp(max=1.0)


def _columns_of(head: Head, ids: Tensor) -> Head:
    """The head of a few tokens: its logits are those columns of the whole head's."""
    ids = ids.to(head.weight.device)
    bias = None if head.bias is None else head.bias[ids].float()
    return Head(head.weight[ids].float(), bias, head.scale, head.softcap)
