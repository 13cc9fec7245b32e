"""One forward pass over the data, streamed into a table; memory does not grow with the data."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from sftloss.analysis.table.store import (
    EXAMPLE_SCHEMA,
    SCHEMA_VERSION,
    Done,
    MeasuredTable,
    done_so_far,
    next_sequence,
    open_manifest,
    token_schema,
    write_done,
    write_part,
)
from sftloss.analysis.table.tokens import batch_tokens
from sftloss.data.examples import Batch, Example
from sftloss.decoder import Decoder
from sftloss.errors import ConfigError, ModelError, mention
from sftloss.files import file_digest, locked
from sftloss.objectives import sequence_values_of
from sftloss.statistics import TokenStats

_SAMPLE = 64  # values of each weight that go into the model's digest


@dataclass(frozen=True)
class Settings:
    """How a measurement runs; nothing here changes a number of the table.

    Attributes:
        identity: What the table is of, by name, beside what the model says of itself: tokenizer, data files,
            maximal length. A directory is continued only if all of it is the same.
        shard: ``(rank, world size)``: this process measures every world-th batch, from the rank-th. Batches are the
            same whatever the world size, and so is every number of the table.
        progress: Called after each batch with (tokens done, tokens in all or None where unknown), all shards together
            if they are equally fast.
        expected: About how many examples there are; tokens in all are then estimated from those done.
        part_tokens: A part is written when this many rows are waiting: the memory held.
        part_seconds: A part is written when its first row is this old: what a killed run loses.
    """

    identity: Mapping[str, Any] = field(default_factory=dict)
    shard: tuple[int, int] = (0, 1)
    progress: Callable[[int, int | None], None] | None = None
    expected: int | None = None
    part_tokens: int = 200_000
    part_seconds: float = 20.0

    def __post_init__(self) -> None:
        rank, world = self.shard
        if not 0 <= rank < world:
            raise ConfigError(
                f"must be (rank, world size) with 0 <= rank < world size, got {self.shard}", option="shard"
            )
        if self.part_tokens < 1:
            raise ConfigError(f"must be at least 1, got {self.part_tokens}", option="part_tokens")


def measure(
    decoder: Decoder,
    examples: Iterable[Example],
    objectives: Mapping[str, Callable[[TokenStats], Tensor]],
    out_dir: str | Path,
    *,
    batch: Callable[[Iterator[Example]], Iterable[Batch]],
    settings: Settings | None = None,
    by_role: Mapping[str, float] | None = None,
) -> MeasuredTable:
    """Run the model over the data once and stream a table of its tokens to disk.

    Each pair of parts on disk is whole, so a run that was killed is continued by the same call: batches that are
    on disk are not computed again, and the table ends bit for bit as if nothing had happened. Run by several processes
    with different shards, the union of their parts is the table.

    Args:
        decoder: The model, opened.
        examples: The data, in its order. Read once; a list also gives `progress` its total.
        objectives: Tokenwise objectives by expression; each becomes the columns ``loss:E``, ``l1:E`` and ``l2:E``.
        out_dir: Directory of the table; made if missing, continued if it holds a part of the same table.
        batch: Groups examples into batches, say ``partial(sftloss.data.batches, ...)``; it must hand on the
            very examples it got, and group equal streams equally.
        settings: How to run.
        by_role: Weights by role, where an objective compares the trained tokens of whole sequences. They are then part
            of what the table is of.

    Returns:
        The table, complete as far as this process is concerned.

    Raises:
        ConfigError: If `out_dir` holds a table of something else, or another process is writing to it.
        ModelError: If a token is outside the model's vocabulary, or there is no memory for a batch.
        OSError: If the disk is full; what is measured stays, and the same call goes on from there.

    Gradient:
        None; the model runs in eval mode and is given back as it was.
    """
    settings, directory = settings or Settings(), Path(out_dir)
    directory.mkdir(parents=True, exist_ok=True)
    facts = {"schema_version": SCHEMA_VERSION, "objectives": list(objectives), "model": model_identity(decoder)}
    if by_role is not None and sequence_values_of(*objectives.values()):
        facts["roles"] = dict(by_role)
    busy = f"measure: another process is measuring into {directory}, wait for it or choose another directory."
    with locked(directory / f".lock-{settings.shard[0]:05d}", busy):
        open_manifest(directory, facts | dict(settings.identity))
        done = done_so_far(directory, settings.shard)
        run = _Run(decoder, objectives, directory, settings, done, by_role)
        with decoder.evaluating():
            run.over(batch, examples)
        write_done(directory, settings.shard, run.seen)
    return MeasuredTable(directory)


class _Run:
    """The state of one process's pass: who is in flight, what waits to be written."""

    def __init__(
        self,
        decoder: Decoder,
        objectives: Mapping[str, Any],
        directory: Path,
        settings: Settings,
        done: Done,
        by_role: Mapping[str, float] | None,
    ) -> None:
        self.decoder, self.objectives, self.directory = decoder, objectives, directory
        self.settings, self.done, self.by_role = settings, done, by_role
        self.numbers: dict[int, int] = {}  # id of an example in flight -> its number in the data
        self.tokens: list[pl.DataFrame] = []
        self.rows: list[dict[str, Any]] = []
        self.seen = self.waiting = self.tokens_done = 0
        self.sequence = next_sequence(directory, settings.shard[0])
        self.written = time.monotonic()

    def over(self, batch: Callable[[Iterator[Example]], Iterable[Batch]], examples: Iterable[Example]) -> None:
        (rank, world), expected, done = self.settings.shard, self.settings.expected, 0
        total = None
        if isinstance(examples, (list, tuple)):
            total = sum(example.input_ids.numel() for example in examples)
        for turn, group in enumerate(batch(self._numbered(examples))):
            numbers = self._numbers_of(group)
            if turn % world == rank:
                self._add(group, numbers)
            self.tokens_done += sum(example.input_ids.numel() for example in group.examples)
            done += len(group.examples)
            if self.settings.progress is not None:
                estimate = total if expected is None else round(self.tokens_done * max(expected, done) / done)
                self.settings.progress(self.tokens_done, estimate)
        self._flush()

    def _numbered(self, examples: Iterable[Example]) -> Iterator[Example]:
        for number, example in enumerate(examples):
            # a batch holds its examples, so an id is not given twice while one is in flight
            self.numbers[id(example)] = number
            yield example

    def _numbers_of(self, group: Batch) -> list[int]:
        try:
            return [self.numbers.pop(id(example)) for example in group.examples]
        except KeyError:
            raise ValueError("measure: batch must hand on the very examples it got, not copies.") from None

    def _add(self, group: Batch, numbers: list[int]) -> None:
        self.seen += len(numbers)
        digests = [_digest(example) for example in group.examples]
        is_new = [self._is_new(*entry) for entry in zip(numbers, digests, group.examples, strict=True)]
        if not any(is_new):
            return
        self._check_vocabulary(group)
        try:
            tokens = batch_tokens(self.decoder, group, self.objectives, self.by_role)
        except torch.OutOfMemoryError as error:
            shape = " x ".join(map(str, group.input_ids.shape))
            raise ModelError(
                f"no memory for a batch of {shape} tokens",
                cure=f"give a smaller {mention('tokens_per_batch')}; what is on disk stays",
            ) from error
        self._keep(group, tokens, [n if new else -1 for n, new in zip(numbers, is_new, strict=True)], digests)

    def _is_new(self, number: int, digest: int, example: Example) -> bool:
        before = self.done.digest(number)
        if before is not None and before != digest:
            raise ConfigError(
                f"{self.directory} was measured when {example.origin} was another example",
                cure=f"choose another {mention('output')} or delete this one",
            )
        return before is None

    def _check_vocabulary(self, group: Batch) -> None:
        legal = self.decoder.vocab_size
        for example in group.examples:
            if example.input_ids.numel() and int(example.input_ids.max()) >= legal:
                raise ModelError(
                    f"{example.origin} has token {int(example.input_ids.max())}, the model has {legal}",
                    cure="the tokenizer belongs to another model",
                )

    def _keep(self, group: Batch, tokens: pl.DataFrame, numbers: list[int], digests: list[int]) -> None:
        """Queue the examples with a number `>= 0` and their tokens; write when enough wait."""
        counts = tokens.group_by("segment").agg(pl.len(), pl.col("is_nonfinite").sum())
        by_segment = {segment: (count, bad) for segment, count, bad in counts.iter_rows()}
        for segment, (example, number) in enumerate(zip(group.examples, numbers, strict=True)):
            if number >= 0:
                self.rows.append(_example_row(example, number, digests[segment], by_segment.get(segment, (0, 0))))
        example_of = np.array(numbers, dtype=np.int64)[tokens["segment"].to_numpy()]
        rows = tokens.with_columns(example=example_of).filter(pl.col("example") >= 0)
        schema = token_schema(list(self.objectives), has_hidden=self.decoder.head is not None)
        self.tokens.append(rows.select(schema.keys()).cast(pl.Schema(schema)))
        self.waiting += rows.height
        is_old = time.monotonic() - self.written > self.settings.part_seconds
        if self.waiting >= self.settings.part_tokens or is_old:
            self._flush()

    def _flush(self) -> None:
        self.written = time.monotonic()
        if not self.rows:
            return
        examples = pl.DataFrame(self.rows, schema=EXAMPLE_SCHEMA)
        write_part(self.directory, self.settings.shard[0], self.sequence, pl.concat(self.tokens), examples)
        self.sequence += 1
        self.tokens, self.rows, self.waiting = [], [], 0


def _example_row(example: Example, number: int, digest: int, counts: tuple[int, int]) -> dict[str, Any]:
    place, length, prompts = example.origin, example.input_ids.numel(), list(example.prompts)
    where = (number, place.path, place.row, place.line, example.task, example.language, example.source)
    sizes = (length, int(example.roles[0]), *counts, example.truncated, example.row_weight)
    return dict(zip(EXAMPLE_SCHEMA, (*where, *sizes, prompts, digest), strict=True))


def _digest(example: Example) -> int:
    """64 bits of everything the table's rows depend on beside the model; where the file lies is no part of it."""
    hashed = hashlib.blake2b(digest_size=8)
    for tensor in (example.input_ids, example.roles, example.weights, example.is_end):
        hashed.update(tensor.cpu().contiguous().numpy().tobytes())
        hashed.update(b"|")
    place = (example.origin.row, example.origin.line)
    hashed.update(repr((*place, example.task, example.language, example.source, example.row_weight)).encode())
    return int.from_bytes(hashed.digest(), "big")


def model_identity(decoder: Decoder) -> dict[str, Any]:
    """Name, type, precision and a digest of configuration and weights.

    The digest reads 64 values of each weight: another checkpoint saved under the same name is noticed, and a large
    model costs no more than its list of weights.
    """
    model: Any = decoder.model
    own = model.config.to_dict() if hasattr(getattr(model, "config", None), "to_dict") else {}
    config = {k: v for k, v in own.items() if k not in ("_name_or_path", "transformers_version")}
    hashed = hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=8)
    for name, weight in model.named_parameters():
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLE)][:_SAMPLE].cpu().contiguous()
        hashed.update(f"{name}{tuple(weight.shape)}".encode())
        hashed.update(sample.view(torch.uint8).numpy().tobytes())
    return {
        "name": str(own.get("_name_or_path", "")),
        "type": type(model).__name__,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "digest": hashed.hexdigest(),
        "own_logits_because": decoder.reason,
    }


def tokenizer_identity(tokenizer: Any) -> dict[str, Any]:
    """Type, size and a digest of the vocabulary, the special tokens and the chat template."""
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    rest = json.dumps([tokenizer.special_tokens_map, tokenizer.chat_template], sort_keys=True, default=str)
    digest = hashlib.blake2b((vocabulary + rest).encode(), digest_size=8).hexdigest()
    return {"type": type(tokenizer).__name__, "size": len(tokenizer), "digest": digest}


def file_identity(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Size and a digest of the content of each file, in order and without its name: a copy of the data is the same."""
    return [{"bytes": path.stat().st_size, "digest": file_digest(path)} for path in map(Path, paths)]
