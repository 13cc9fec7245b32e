"""What `measure` left on disk, read lazily."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from sftloss.analysis.table.store import (
    EXAMPLE_SCHEMA,
    Part,
    complete_parts,
    missing_ranks,
    read_manifest,
    token_schema,
)
from sftloss.statistics import FIELDS, TokenStats


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
        paths = [part.tokens for part in self._parts()]
        frame = pl.scan_parquet(paths) if paths else pl.LazyFrame(schema=self._schema())
        return frame.sort("example", "position") if is_sorted else frame

    def examples(self, *, is_sorted: bool = True) -> pl.LazyFrame:
        """One row an example, in the order of the data: origin, groups, lengths and counts."""
        paths = [part.examples for part in self._parts()]
        frame = pl.scan_parquet(paths) if paths else pl.LazyFrame(schema=EXAMPLE_SCHEMA)
        return frame.sort("example") if is_sorted else frame

    def chunks(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Some columns, a part at a time: whole examples, by example and position."""
        for part in self._parts():
            frame = pl.read_parquet(part.tokens, columns=[*dict.fromkeys(("example", "position", *columns))])
            yield frame.sort("example", "position")

    def missing(self, world: int) -> tuple[int, ...]:
        """Ranks of a run of `world` processes whose part is not all there."""
        return missing_ranks(self.directory, world)

    def _schema(self) -> dict[str, Any]:
        return token_schema(self.objectives, has_hidden=not self.manifest["model"]["own_logits_because"])

    def _parts(self) -> list[Part]:
        return complete_parts(self.directory)


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
