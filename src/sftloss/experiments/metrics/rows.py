"""Held-out rows on their way to a model: encoded, batched, with the tokens that end their answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sftloss.data import batches, encode
from sftloss.data.examples import Batch, Example, Record
from sftloss.data.tokenizer import eos_ids, pad_id_of
from sftloss.errors import DataError
from sftloss.numbers import Codes

TOKENS_PER_BATCH = 4096


def as_examples(rows: Sequence[Record | Example], tokenizer: Any, max_length: int | None = None) -> list[Example]:
    """Rows as examples: records are encoded, examples are taken as they are.

    Raises:
        RowError: If a row cannot be encoded.
        DataError: If there is no row.
    """
    if not rows:
        raise DataError("there is no held-out row", cure="give a file with at least one")
    return [row if isinstance(row, Example) else encode(row, tokenizer, max_length=max_length) for row in rows]


def numbered_batches(
    examples: Sequence[Example], tokenizer: Any, tokens_per_batch: int
) -> Iterator[tuple[Batch, Codes]]:
    """Batches, each with the row of every scored target (those with a weight above 0), ``(targets,)``."""
    number = {id(example): i for i, example in enumerate(examples)}
    if len(number) < len(examples):
        raise ValueError("evaluate_tokens: an example is in the list twice; give each row its own.")
    for batch in batches(examples, pad_id=pad_id_of(tokenizer), tokens_per_batch=tokens_per_batch):
        rows = np.array([number[id(example)] for example in batch.examples], dtype=np.int64)
        yield batch, rows[batch.segments[batch.weights > 0].numpy()]


def end_ids(examples: Sequence[Example], tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's eos, and what the chat template ends trained turns with."""
    trained = {int(token) for e in examples for token in e.input_ids[e.is_end & (e.weights > 0)]}
    return sorted(trained | eos_ids(tokenizer))
