"""The table on disk: pairs of parquet parts that are either complete or not there, and read lazily.

A pair is ``tokens-RANK-SEQ.parquet`` and ``examples-RANK-SEQ.parquet``. Each is written to a temporary name and
renamed; then both are listed in ``parts-RANK.json`` with their sizes and digests, which completes the pair. The run
that continues removes what a killed run left unlisted, and measures again what is no longer as it was listed.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from sftloss.errors import ConfigError, DataError, mention
from sftloss.files import file_digest, write_atomic
from sftloss.statistics import FIELDS, TokenStats

SCHEMA_VERSION = "2.4"
MANIFEST = "manifest.json"
_LOG = logging.getLogger("sftloss.analysis")
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
    "first_role": pl.Int8,
    "n_targets": pl.Int32,
    "n_nonfinite": pl.Int32,
    "truncated": pl.Int32,
    "row_weight": pl.Float64,
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
    signals = {f"{signal}:{name}": pl.Float32 for name in objectives for signal in ("loss", "l1", "l2")}
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


def complete_parts(directory: Path, *, is_verified: bool = False) -> list[Part]:
    """Pairs that are whole, in the order they were written: listed by their rank, with the sizes of the list.

    Args:
        directory: The table.
        is_verified: Compare the digests of all files too.

    Raises:
        DataError: If a list is damaged.
    """
    parts: list[Part] = []
    for rank in sorted({rank for rank, *_ in _files(directory)}):
        listed = _listed(directory, rank)
        for name in sorted(name for name in listed if name.startswith("examples-")):
            pair = (directory / name.replace("examples-", "tokens-", 1), directory / name)
            if all(_is_whole(path, listed.get(path.name), is_verified) for path in pair):
                parts.append(Part(rank, int(name.split("-")[2].partition(".")[0]), *pair))
    return sorted(parts, key=lambda part: (part.rank, part.sequence))


def done_so_far(directory: Path, shard: tuple[int, int]) -> Done:
    """Remove what no complete pair owns, of this rank and of ranks that no longer run; return what is done."""
    parts = complete_parts(directory, is_verified=True)
    owned = {path for part in parts for path in (part.tokens, part.examples)}
    rank, world = shard
    for part_rank, _, _, is_temporary, path in _files(directory):
        # another rank may be between its two renames
        if path not in owned and part_rank % world == rank:
            if not is_temporary and path.name in _listed(directory, part_rank):
                _LOG.warning("sftloss: %s is not what was written; its examples are measured again.", path)
            path.unlink()
    for part_rank in {part.rank for part in parts if part.rank % world == rank}:
        names = {path.name for part in parts if part.rank == part_rank for path in (part.tokens, part.examples)}
        entries = {name: entry for name, entry in _listed(directory, part_rank).items() if name in names}
        write_whole(_list_of(directory, part_rank), {"format": 1, "files": entries})
    if not parts:
        return Done(np.zeros(0, np.int64), np.zeros(0, np.uint64))
    done = pl.scan_parquet([part.examples for part in parts]).select("example", "digest").sort("example").collect()
    return Done(done["example"].to_numpy(), done["digest"].to_numpy())


def next_sequence(directory: Path, rank: int) -> int:
    """The number of the next part this rank writes."""
    return 1 + max((sequence for part_rank, sequence, *_ in _files(directory) if part_rank == rank), default=-1)


def write_part(directory: Path, rank: int, sequence: int, tokens: pl.DataFrame, examples: pl.DataFrame) -> None:
    """Put one pair on disk, then list both files with their digests: the list makes the pair part of the table."""
    entries = _listed(directory, rank)
    for kind, frame in (("tokens", tokens), ("examples", examples)):
        path = directory / f"{kind}-{rank:05d}-{sequence:06d}.parquet"
        write_whole(path, frame)
        entries[path.name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    write_whole(_list_of(directory, rank), {"format": 1, "files": entries})


def write_done(directory: Path, shard: tuple[int, int], examples: int) -> None:
    """Say that a shard's parts are all on disk."""
    rank, world = shard
    write_whole(directory / f"done-{rank:05d}-of-{world:05d}.json", {"examples": examples})


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
    """The facts a table was measured from; a DataError if there are none, or no JSON object."""
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise ValueError("not a JSON object")
    except OSError as error:
        problem = f"{directory} is not a measured table (it has no {MANIFEST})"
        raise DataError(problem, cure="run the analysis first") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error})", cure="delete the folder and measure again") from error
    return manifest


def _files(directory: Path) -> Iterator[tuple[int, int, str, bool, Path]]:
    """Rank, sequence, kind, whether it is temporary, path: of every file that is ours by its name."""
    for path in sorted(directory.iterdir()):
        if match := _PART.fullmatch(path.name):
            yield int(match[2]), int(match[3]), match[1], match[4] is not None, path


def _list_of(directory: Path, rank: int) -> Path:
    return directory / f"parts-{rank:05d}.json"


def _listed(directory: Path, rank: int) -> dict[str, Any]:
    """Size and digest of each file that a rank has completed, by name."""
    path = _list_of(directory, rank)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] == 1 and all({"bytes", "sha256"} <= set(entry) for entry in content["files"].values()):
            return dict(content["files"])
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise DataError(f"{path} is damaged", cure="delete the folder and measure again")


def _is_whole(path: Path, entry: Mapping[str, Any] | None, is_verified: bool) -> bool:
    """Whether a listed file has its size, and its digest where that is compared."""
    if entry is None or not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    return not is_verified or file_digest(path) == entry["sha256"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


@dataclass(frozen=True)
class MeasuredTable:
    """A measured table: one row a token, one row an example, and the facts it was measured from.

    Only complete parts are read, so a table may be looked at while it is still being measured.

    Attributes:
        directory: Where :func:`sftloss.analysis.measure` wrote it.

    Example:
        >>> table = MeasuredTable(Path("out"))                                         # doctest: +SKIP
        >>> table.tokens().group_by("role").agg(pl.col("loss:cross_entropy").sum()).collect()  # doctest: +SKIP
    """

    directory: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "directory", Path(self.directory))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The facts: schema version, model, data, objectives, why the head could not be read if it could not."""
        return read_manifest(self.directory)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Expressions that have the columns ``loss:E``, ``l1:E`` and ``l2:E``."""
        return tuple(self.manifest["objectives"])

    def tokens(self, *, is_sorted: bool = True) -> pl.LazyFrame:
        """One row a target token, by example and position; unsorted is faster where order does not matter."""
        paths = [part.tokens for part in complete_parts(self.directory)]
        schema = token_schema(self.objectives, has_hidden=not self.manifest["model"]["own_logits_because"])
        frame = pl.scan_parquet(paths) if paths else pl.LazyFrame(schema=schema)
        return frame.sort("example", "position") if is_sorted else frame

    def examples(self, *, is_sorted: bool = True) -> pl.LazyFrame:
        """One row an example, in the order of the data: origin, groups, lengths and counts."""
        paths = [part.examples for part in complete_parts(self.directory)]
        frame = pl.scan_parquet(paths) if paths else pl.LazyFrame(schema=EXAMPLE_SCHEMA)
        return frame.sort("example") if is_sorted else frame

    def chunks(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Some columns, a part at a time: whole examples, by example and position."""
        for part in complete_parts(self.directory):
            frame = pl.read_parquet(part.tokens, columns=[*dict.fromkeys(("example", "position", *columns))])
            yield frame.sort("example", "position")

    def missing(self, world: int) -> tuple[int, ...]:
        """Ranks of a run of `world` processes whose part is not all there."""
        done = (self.directory / f"done-{rank:05d}-of-{world:05d}.json" for rank in range(world))
        return tuple(rank for rank, path in enumerate(done) if not path.exists())


def token_stats(tokens: pl.DataFrame) -> TokenStats:
    """Rows of a table as statistics: any tokenwise objective's value follows without another forward pass.

    Args:
        tokens: Rows of :meth:`MeasuredTable.tokens`, collected, with the statistics' columns and ``vocab``.

    Returns:
        Statistics in float64, without gradient, in the order of the rows.
    """
    fields = {
        name: torch.from_numpy(tokens[name].to_numpy().astype(bool if name == "is_top1" else np.float64))
        for name in FIELDS
    }
    return TokenStats(fields, torch.from_numpy(tokens["vocab"].to_numpy().astype(np.int64)))
