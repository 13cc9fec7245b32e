"""A data file as examples the Trainer can draw: read, held out, packed, in an order that the seed alone decides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from sftloss.data import Example, Examples, collate, first_fit_decreasing, read_records
from sftloss.errors import ConfigError, DataError, mention
from sftloss.finetune.recipe import Recipe
from sftloss.roles import RESPONSE
from sftloss.training import inputs_of

Row = tuple[tuple[int, Example], ...]


@dataclass(frozen=True)
class DataSet:
    """Examples in memory, about 14 bytes a token, and what the Trainer draws: rows of one example, or packed ones.

    Attributes:
        examples: In the order of the data.
        rows: Indices into `examples` of each row.
        source: Where they came from.
        refused: Reason to number of the rows that cannot be trained on.
    """

    examples: tuple[Example, ...]
    rows: tuple[tuple[int, ...], ...]
    source: str
    refused: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return tuple((i, self.examples[i]) for i in self.rows[index])

    def names(self, of: str) -> tuple[str, ...]:
        """Every task or language there is, sorted."""
        return tuple(sorted({name for e in self.examples if (name := getattr(e, of)) is not None}))

    @property
    def trained_tokens(self) -> int:
        return sum(int((e.weights != 0).sum()) for e in self.examples)

    @property
    def tokens(self) -> int:
        return sum(len(e.input_ids) for e in self.examples)

    def digest(self) -> str:
        """Of what is trained: tokens, weights, roles and groups, whatever file, template or cut they came from."""
        found = hashlib.sha256()
        for e in self.examples:
            for tensor in (e.input_ids, e.weights, e.roles):
                found.update(tensor.contiguous().numpy().tobytes())
            found.update(repr((e.task, e.language)).encode())
        return found.hexdigest()


def read(recipe: Recipe, source: Any, tokenizer: Any) -> DataSet:
    """The examples of a source: a path, a name, rows as mappings, or examples made before.

    Raises:
        DataError: If no row can be trained on, or most cannot.
    """
    if not isinstance(source, str):
        source = list(source)
        if source and isinstance(source[0], Example):
            return _data_set(recipe, source, "examples", {})
    records = read_records(
        source, format=recipe.format, columns=recipe.columns, on_error=recipe.on_error, limit=recipe.max_examples
    )
    examples = Examples(records, tokenizer, max_length=recipe.max_length)
    kept = list(examples)
    name = source if isinstance(source, str) else "rows"
    return _data_set(recipe, kept, name, examples.account.refused)


def _data_set(recipe: Recipe, examples: Sequence[Example], source: str, refused: Mapping[str, int]) -> DataSet:
    if not examples:
        raise DataError("there is no row to train on", cure="give at least one")
    if recipe.roles is not None:
        examples = [_with_every_role(example) for example in examples]
    return DataSet(tuple(examples), tuple((i,) for i in range(len(examples))), source, dict(refused))


def _with_every_role(example: Example) -> Example:
    """Weights of all roles, for role weights to multiply: where the data trains nothing but answers, the others get
    the row's largest weight. An answer that the data does not train stays untrained."""
    is_answer = example.roles == RESPONSE
    weights = torch.where(is_answer | (example.weights != 0), example.weights, example.weights.max())
    weights[0] = 0.0
    return replace(example, weights=weights)


def hold_out(data: DataSet, share: float, seed: int) -> tuple[DataSet, DataSet]:
    """Two parts, the second about `share` of the rows, by seed; rows with the same prompt are on one side.

    Raises:
        ConfigError: If one part would be empty.
    """
    groups: dict[Any, list[int]] = {}
    for i, example in enumerate(data.examples):
        groups.setdefault(_prompt(example) or f"row {i}", []).append(i)
    order = list(groups.values())
    Random(f"hold out {seed}").shuffle(order)
    room, held = round(share * len(data.examples)), set[int]()
    for group in order:
        if len(group) <= room - len(held):
            held.update(group)
    if not held or len(held) == len(data.examples):
        raise ConfigError(
            f"{share:g} of {len(data.examples)} rows with {len(order)} different prompts leaves one part empty",
            option="eval_share",
            cure=f"choose another share, or give {mention('eval_data')}",
        )
    return _part(data, lambda i: i not in held), _part(data, lambda i: i in held)


def _prompt(example: Example) -> bytes:
    """The tokens before the last answer; empty where the data has no prompt."""
    trained = torch.nonzero((example.roles == RESPONSE).diff() > 0)
    start = int(trained[-1]) + 1 if len(trained) else 0
    return example.input_ids[:start].numpy().tobytes()


def _part(data: DataSet, belongs: Any) -> DataSet:
    examples = tuple(example for i, example in enumerate(data.examples) if belongs(i))
    return replace(data, examples=examples, rows=tuple((i,) for i in range(len(examples))))


def pack(data: DataSet, capacity: int) -> DataSet:
    """The same examples in rows of at most `capacity` tokens, packed 1,024 at a time."""
    lengths = [len(example.input_ids) for example in data.examples]
    rows: list[tuple[int, ...]] = []
    for start in range(0, len(lengths), 1024):
        bins = first_fit_decreasing(lengths[start : start + 1024], capacity)
        rows += sorted(tuple(sorted(start + i for i in row)) for row in bins)
    return replace(data, rows=tuple(rows))


class Order:
    """The order of the rows in each epoch: from the seed and the epoch alone, so every loss and every number of
    ranks sees the same rows in the same step.
    """

    def __init__(self, rows: int, *, seed: int) -> None:
        self.rows, self.seed, self.epoch = rows, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.rows))
        Random(f"{self.seed} epoch {self.epoch}").shuffle(order)
        return iter(order)


@dataclass(frozen=True)
class Collator:
    """Rows to what an attached model takes, with `example_ids` and, where the data has tasks, `tasks`."""

    pad_id: int
    packed: bool = False
    tasks: tuple[str, ...] = ()

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        examples = [[example for _, example in row] for row in rows]
        packed = self.packed and any(len(row) > 1 for row in rows)
        batch = collate(examples, pad_id=self.pad_id, packed=packed)
        inputs = inputs_of(batch)
        inputs["example_ids"] = _spread([i for row in rows for i, _ in row], batch.segments)
        if self.tasks:
            index = {name: i for i, name in enumerate(self.tasks)}
            inputs["tasks"] = _spread([index.get(e.task or "", -1) for e in batch.examples], batch.segments)
        return inputs


def _spread(values: Sequence[int], segments: Tensor) -> Tensor:
    """One value an example as one a position, -1 on padding."""
    return torch.where(segments >= 0, torch.tensor(values)[segments.clamp(min=0)], -1)
