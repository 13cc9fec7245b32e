"""Small examples and the plainest ways to batch them, for tests of the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from sftloss.data.examples import Batch, Example, Origin


def tiny_examples(count: int = 12, *, vocab_size: int = 61, seed: int = 0) -> list[Example]:
    """Random tokens, 1 to 14 an example; the first third of each is a prompt."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for row in range(count):
        length = int(torch.randint(2, 15, (), generator=generator)) if row != 5 else 1
        ids = torch.randint(3, vocab_size, (length,), generator=generator)
        roles = (torch.arange(length) >= length // 3).to(torch.int8)
        weights = roles.float()
        weights[0] = 0.0
        is_end = torch.arange(length) == length - 1
        origin = Origin("data.jsonl", row, row + 1)
        task = ("add", None, "copy")[row % 3]
        examples.append(Example(ids, roles, weights, is_end, origin, task, "Latin", None, row % 2, (row << 40,)))
    return examples


def _row(examples: list[Example], numbers: list[int], width: int) -> dict[str, torch.Tensor]:
    """One row of a batch: examples end to end, then padding, each predicting its own next token."""
    empty = {"input_ids": 0, "position_ids": 0, "attention_mask": 0, "targets": -100}
    empty |= {"weights": 0, "roles": 0, "is_end": 0, "segments": -1}
    kinds = {"weights": torch.float32, "roles": torch.int8, "is_end": torch.bool}
    row = {name: torch.full((width,), fill, dtype=kinds.get(name, torch.int64)) for name, fill in empty.items()}
    start = 0
    for example, number in zip(examples, numbers, strict=True):
        length = example.input_ids.numel()
        here, before = slice(start, start + length), slice(start, start + length - 1)
        row["input_ids"][here] = example.input_ids
        row["position_ids"][here] = torch.arange(length)
        row["attention_mask"][here] = 1
        row["segments"][here] = number
        row["targets"][before] = example.input_ids[1:]
        row["weights"][before] = example.weights[1:]
        row["roles"][before] = example.roles[1:]
        row["is_end"][before] = example.is_end[1:]
        start += length
    return row


def _stack(rows: list[dict[str, torch.Tensor]], examples: Iterable[Example]) -> Batch:
    return Batch(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]}, examples=tuple(examples))


def padded(examples: Iterable[Example], size: int = 4) -> Iterator[Batch]:
    """`size` examples side by side, padded to the longest."""
    waiting: list[Example] = []
    for example in examples:
        waiting.append(example)
        if len(waiting) == size:
            yield _padded(waiting)
            waiting = []
    if waiting:
        yield _padded(waiting)


def _padded(examples: list[Example]) -> Batch:
    width = max(example.input_ids.numel() for example in examples)
    return _stack([_row([example], [number], width) for number, example in enumerate(examples)], examples)


def packed(examples: Iterable[Example], size: int = 4) -> Iterator[Batch]:
    """`size` examples end to end in one row."""
    for batch in padded(examples, size):
        group = list(batch.examples)
        width = sum(example.input_ids.numel() for example in group)
        yield replace(_stack([_row(group, list(range(len(group))), width)], group), attention_mask=None)
