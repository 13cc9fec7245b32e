"""Segments of an example: what one role says in one go. Answers are segments, and positions count inside them."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sftloss.data import segment_breaks, spoken_roles
from sftloss.roles import RESPONSE


def _roles(chunk: pl.DataFrame) -> NDArray[np.int64]:
    return np.asarray(spoken_roles(chunk["role"].to_numpy().astype(np.int64), chunk["u"].to_numpy() > 0))


def _starts(chunk: pl.DataFrame) -> NDArray[np.int64]:
    """Rows at which a segment begins, of tokens by example and position, trained or not."""
    if chunk.height == 0:
        return np.zeros(0, dtype=np.int64)
    example = chunk["example"].to_numpy()
    breaks = (example[1:] != example[:-1]) | segment_breaks(_roles(chunk), chunk["is_end"].to_numpy())
    return np.flatnonzero(np.r_[True, breaks])


def with_spans(chunk: pl.DataFrame) -> pl.DataFrame:
    """Adds `first` and `last`: the positions of the first and last trained token of each token's segment."""
    starts = _starts(chunk)
    if not len(starts):
        return chunk.with_columns(first=pl.col("position"), last=pl.col("position"))
    position, trained = chunk["position"].to_numpy().astype(np.int64), chunk["u"].to_numpy() > 0
    sizes = np.diff(np.append(starts, chunk.height))
    first = np.minimum.reduceat(np.where(trained, position, np.iinfo(np.int64).max), starts)
    last = np.maximum.reduceat(np.where(trained, position, -1), starts)
    return chunk.with_columns(first=pl.Series(np.repeat(first, sizes)), last=pl.Series(np.repeat(last, sizes)))


def answers(chunk: pl.DataFrame) -> pl.DataFrame:
    """One row an answer: its example, its turn (0, 1, ...), trained tokens, last position, whether an end closes it."""
    starts = _starts(chunk)
    stops = starts + np.diff(np.append(starts, chunk.height)) - 1
    example, position = chunk["example"].to_numpy(), chunk["position"].to_numpy()
    trained = np.append(0, np.cumsum(chunk["u"].to_numpy() > 0))
    keep = _roles(chunk)[starts] == RESPONSE
    of = example[starts][keep]
    _, first, count = np.unique(of, return_index=True, return_counts=True)
    turn = np.arange(len(of)) - np.repeat(first, count)
    return pl.DataFrame(
        {
            "example": of.astype(np.int64),
            "turn": turn.astype(np.int64),
            "count": (trained[stops + 1] - trained[starts])[keep].astype(np.int64),
            "last": position[stops][keep].astype(np.int64),
            "closed": chunk["is_end"].to_numpy()[stops][keep].astype(bool),
        }
    )


def with_facts(segments: pl.DataFrame, base: pl.DataFrame) -> pl.DataFrame:
    """Adds what the examples know: `prompt` of each answer (-1 for none), and whether it was cut off (`is_cut`)."""
    known = {name: name in base.columns for name in ("prompts", "truncated", "n_tokens")}
    of = base.select("example", *(name for name, is_there in known.items() if is_there))
    frame = segments.join(of, on="example", how="left", maintain_order="left")
    prompt = pl.lit(-1, pl.Int64)
    if known["prompts"]:
        prompt = pl.col("prompts").list.get(pl.col("turn"), null_on_oob=True).fill_null(0).replace(0, -1)
    is_cut = pl.lit(False)
    if known["truncated"] and known["n_tokens"]:  # what is cut off is cut off at the end, before any end token
        at_the_end = pl.col("last") == pl.col("n_tokens") - 1
        is_cut = (pl.col("truncated").fill_null(0) > 0) & at_the_end & ~pl.col("closed")
    return frame.with_columns(prompt.alias("prompt"), is_cut.alias("is_cut"))
