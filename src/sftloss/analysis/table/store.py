"""The table on disk: pairs of parquet parts that are either complete or not there.

A pair is ``tokens-RANK-SEQ.parquet`` and ``examples-RANK-SEQ.parquet``. Each is written to a temporary name and
renamed, the examples last: their name says that the pair is complete. What a killed run leaves behind is thus a
temporary file or a tokens part without its examples, and both are swept away by the run that continues.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sftloss.errors import ConfigError, DataError, mention
from sftloss.files import write_atomic
from sftloss.statistics import FIELDS

SCHEMA_VERSION = "2.1"
MANIFEST = "manifest.json"
SIGNALS = ("loss", "l1", "l2")
_PART = re.compile(r"\.?(tokens|examples)-(\d{5})-(\d{6})\.parquet(\.\w+\.tmp)?")

EXAMPLE_SCHEMA: dict[str, Any] = {
    "example": pl.Int64,
    "path": pl.String,
    "row": pl.Int64,
    "line": pl.Int64,
    "task": pl.String,
    "language": pl.String,
    "source": pl.String,
    "n_tokens": pl.Int32,
    "n_targets": pl.Int32,
    "n_nonfinite": pl.Int32,
    "truncated": pl.Int32,
    "prompts": pl.List(pl.Int64),
    "digest": pl.UInt64,
}


def token_schema(objectives: Sequence[str], *, has_hidden: bool = True) -> dict[str, Any]:
    """Columns of a token row: where it is, what it is, its statistics, and three numbers for each objective.

    `hidden_norm` is there only if the head could be read: without hidden states there is no last-layer signal, and
    a column of nothing would sum to 0.
    """
    where = {"example": pl.Int64, "position": pl.Int32, "token": pl.Int32, "role": pl.Int8, "weight": pl.Float32}
    stats = {name: pl.Boolean if name == "is_top1" else pl.Float32 for name in FIELDS}
    signals = {f"{signal}:{name}": pl.Float32 for name in objectives for signal in SIGNALS}
    hidden = {"hidden_norm": pl.Float32} if has_hidden else {}
    ends = {"is_end": pl.Boolean, "end_logprob": pl.Float32}
    return {**where, **ends, **stats, "vocab": pl.Int32, **hidden, **signals}


@dataclass(frozen=True)
class Part:
    """One complete pair."""

    rank: int
    sequence: int
    tokens: Path
    examples: Path


@dataclass(frozen=True)
class Done:
    """What is measured already: example numbers, ascending, and the digest of what each was."""

    numbers: np.ndarray
    digests: np.ndarray

    def digest(self, number: int) -> int | None:
        """The digest of an example that is done, None of one that is not."""
        at = int(np.searchsorted(self.numbers, number))
        is_known = at < len(self.numbers) and self.numbers[at] == number
        return int(self.digests[at]) if is_known else None


def complete_parts(directory: Path) -> list[Part]:
    """Pairs whose two files can be read and agree, in the order they were written."""
    parts: list[Part] = []
    for rank, sequence, kind, is_temporary, path in _files(directory):
        if kind != "examples" or is_temporary:
            continue
        tokens = path.with_name(path.name.replace("examples-", "tokens-", 1))
        rows = _rows(tokens)
        if rows is not None and rows == _targets(path):
            parts.append(Part(rank, sequence, tokens, path))
    return sorted(parts, key=lambda part: (part.rank, part.sequence))


def done_so_far(directory: Path, shard: tuple[int, int]) -> Done:
    """Remove what no complete pair owns, of this rank's and of ranks that no longer run; say what is done."""
    parts = complete_parts(directory)
    owned = {path for part in parts for path in (part.tokens, part.examples)}
    rank, world = shard
    for part_rank, _, _, _, path in _files(directory):
        # another rank may be between its two renames
        if path not in owned and part_rank % world == rank:
            path.unlink()
    if not parts:
        return Done(np.zeros(0, np.int64), np.zeros(0, np.uint64))
    done = pl.scan_parquet([part.examples for part in parts]).select("example", "digest").sort("example").collect()
    return Done(done["example"].to_numpy(), done["digest"].to_numpy())


def next_sequence(directory: Path, rank: int) -> int:
    """The number of the next part this rank writes."""
    return 1 + max((sequence for part_rank, sequence, *_ in _files(directory) if part_rank == rank), default=-1)


def write_part(directory: Path, rank: int, sequence: int, tokens: pl.DataFrame, examples: pl.DataFrame) -> None:
    """Put one pair on disk, the examples last."""
    for kind, frame in (("tokens", tokens), ("examples", examples)):
        write_whole(directory / f"{kind}-{rank:05d}-{sequence:06d}.parquet", frame)


def write_done(directory: Path, shard: tuple[int, int], examples: int) -> None:
    """Say that a shard's parts are all on disk."""
    rank, world = shard
    write_whole(directory / f"done-{rank:05d}-of-{world:05d}.json", {"examples": examples})


def missing_ranks(directory: Path, world: int) -> tuple[int, ...]:
    """Ranks of a run of `world` processes that have not come to their end."""
    return tuple(r for r in range(world) if not (directory / f"done-{r:05d}-of-{world:05d}.json").exists())


def write_whole(path: Path, content: pl.DataFrame | Mapping[str, Any]) -> None:
    """Write a frame (parquet) or a mapping (JSON) so that `path` is either absent or whole, also after a power cut.

    Raises:
        OSError: If the disk is full or the directory cannot be written; what was there stays.
    """
    if isinstance(content, pl.DataFrame):
        buffer = io.BytesIO()  # polars would report a full disk as an error of its own kind
        content.write_parquet(buffer)
        write_atomic(path, buffer.getvalue())
    else:
        write_atomic(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def open_manifest(directory: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a new table, or hold an old one against the same facts.

    Raises:
        ConfigError: If the directory holds the table of another model, other data or other objectives.
    """
    path = directory / MANIFEST
    if not path.exists():
        if any(True for _ in _files(directory)):
            raise ConfigError(
                f"{directory} holds parts of a table but no {MANIFEST}", cure=f"choose another {mention('output')}"
            )
        write_whole(path, facts)
        return
    old = read_manifest(directory)
    new = json.loads(json.dumps(facts))
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if changed:
        was = "; ".join(f"{key} was {_short(old.get(key))}, is {_short(new.get(key))}" for key in changed)
        raise ConfigError(
            f"{directory} holds a table of something else ({was})",
            cure=f"choose another {mention('output')} or delete this one",
        )


def read_manifest(directory: Path) -> dict[str, Any]:
    """The facts a table was measured from.

    Raises:
        DataError: If there is none, or it is no JSON object.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{directory} is not a measured table (it has no {MANIFEST})", cure="run the analysis first"
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error})", cure="delete the folder and measure again") from error
    if not isinstance(manifest, dict):
        raise DataError(f"{path} is damaged (not a JSON object)", cure="delete the folder and measure again")
    return manifest


def _files(directory: Path) -> Iterator[tuple[int, int, str, bool, Path]]:
    """Rank, sequence, kind, whether it is temporary, path: of every file that is ours by its name."""
    for path in sorted(directory.iterdir()):
        if match := _PART.fullmatch(path.name):
            yield int(match[2]), int(match[3]), match[1], match[4] is not None, path


def _rows(tokens: Path) -> int | None:
    """Number of rows by the file's own footer, None where it has no readable one."""
    try:
        return int(pl.scan_parquet(tokens).select(pl.len()).collect().item())
    except (OSError, pl.exceptions.PolarsError):
        return None


def _targets(examples: Path) -> int | None:
    """Number of token rows the examples speak of, None where they cannot be read."""
    try:
        return int(pl.read_parquet(examples, columns=["n_targets"])["n_targets"].cast(pl.Int64).sum())
    except (OSError, pl.exceptions.PolarsError):
        return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
