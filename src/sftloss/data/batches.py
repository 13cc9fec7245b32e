"""Examples to batches. `align` is the only place in the library where targets are shifted against inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor

from sftloss.data.examples import Batch, Example

_NO_TARGET = -100


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of indices whose lengths sum to at most `capacity`: the longest first, each into the first bin with room.

    Uses at most 11/9 of the fewest bins possible (plus one). Equal lengths keep their order, so the result depends
    on the input alone. A length above the capacity gets a bin of its own.

    Args:
        lengths: Length of each example, in tokens, `>= 0`.
        capacity: Tokens of a row, `>= 1`.

    Raises:
        ValueError: If `capacity` is less than 1.

    Example:
        >>> first_fit_decreasing([3, 5, 2, 4], capacity=7)
        [[1, 2], [3, 0]]

    Source:
        Dosa, *The Tight Bound of First Fit Decreasing Bin-Packing Algorithm Is FFD(I) <= 11/9 OPT(I) + 6/9*, 2007.
    """
    if capacity < 1:
        raise ValueError(f"first_fit_decreasing: capacity must be at least 1 token, got {capacity}.")
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        size = lengths[index]
        fit = next((b for b, free in enumerate(room) if free >= size), None)
        if fit is None:
            bins.append([])
            room.append(capacity)
            fit = -1
        bins[fit].append(index)
        room[fit] -= size
    return bins


def align(values: Shaped[Tensor, "tokens ..."], last: float | bool) -> Shaped[Tensor, "tokens ..."]:
    """What the position before each token predicts: the values of the next token, and `last` at the end.

    Example:
        >>> align(torch.tensor([5, 6, 7]), -100)
        tensor([   6,    7, -100])
    """
    return torch.cat([values[1:], values.new_full((min(len(values), 1), *values.shape[1:]), last)])


def with_columns(batch: Batch, rows: Sequence[Mapping[str, Tensor]]) -> Batch:
    """The batch with further columns as extras, aligned with its targets.

    Args:
        batch: The batch.
        rows: Of each of its examples the columns by name, laid out as its labels are: value t is of token t.
    """
    laid = {}
    for name in rows[0]:
        values = torch.cat([align(row[name], 0) for row in rows])
        laid[name] = values.new_zeros(*batch.segments.shape, *values.shape[1:])
        laid[name][batch.segments >= 0] = values  # examples stand in a batch in their order
    return replace(batch, extras={**batch.extras, **laid})


def collate(rows: Sequence[Sequence[Example]], *, pad_id: int, packed: bool = False) -> Batch:
    """One batch whose row i holds the examples `rows[i]` one after another, padded at the right.

    Each example is aligned by itself, so no target crosses from one to the next: the first token of a packed example
    is never a target. Position ids restart at each example.

    Args:
        rows: The examples of each row, at least one row and one example. One example per row is plain padding.
        pad_id: Token id of the padding; any id of the vocabulary will do, `segments` marks the padding.
        packed: Whether position ids isolate the attention; then there is no attention mask, because with one
            transformers ignores the position ids. The model must be called with `use_cache=False` then.

    Raises:
        ValueError: If there is no example, or a row holds several and `packed` is False, or `pad_id` is no id.

    Example:
        >>> batch = collate([[first], [second]], pad_id=0)   # doctest: +SKIP
    """
    if not rows or not all(rows):
        raise ValueError("collate: every row must hold at least one example.")
    if not packed and any(len(row) > 1 for row in rows):
        raise ValueError("collate: a row with several examples needs packed=True, or they attend to each other.")
    if not isinstance(pad_id, int) or pad_id < 0:
        raise ValueError(f"collate: pad_id must be a token id, got {pad_id!r}. Without a pad token give the eos id.")
    examples = tuple(example for row in rows for example in row)
    counts = [len(row) for row in rows]

    def laid(parts: Sequence[Tensor], padding: float | bool) -> Tensor:
        """One tensor per example, laid out as ``(rows, columns)``."""
        rest = iter(parts)
        lines = [torch.cat(list(islice(rest, count))) for count in counts]
        return torch.nn.utils.rnn.pad_sequence(lines, batch_first=True, padding_value=padding)

    segments = laid([torch.full_like(example.input_ids, i) for i, example in enumerate(examples)], -1)
    return Batch(
        input_ids=laid([example.input_ids for example in examples], pad_id),
        position_ids=_positions(laid([torch.arange(len(e.input_ids)) for e in examples], -1)),
        attention_mask=None if packed else (segments >= 0).long(),
        targets=laid([align(example.input_ids, _NO_TARGET) for example in examples], _NO_TARGET),
        weights=laid([align(example.weights, 0.0) for example in examples], 0.0),
        roles=laid([align(example.roles, 0) for example in examples], 0),
        is_end=laid([align(example.is_end, False) for example in examples], False),
        segments=segments,
        examples=examples,
    )


def _positions(positions: Tensor) -> Tensor:
    """Padding counts up from 0: to packed attention it is one more sequence, and every id stays in range."""
    is_padding = positions < 0
    return torch.where(is_padding, is_padding.cumsum(-1) - 1, positions)


def batches(
    examples: Iterable[Example],
    *,
    pad_id: int,
    batch_size: int | None = None,
    tokens_per_batch: int | None = None,
    packed: bool = False,
    bucketed: bool = True,
    window: int = 1024,
) -> Iterator[Batch]:
    """Every example once, in batches of rows of similar length.

    The examples are read `window` at a time. Within a window they are sorted by length (`bucketed`) and cut into
    batches, which come out in the order of their earliest example: no randomness, and no drift from short to long.
    The loss does not depend on any of this, only the time does.

    Args:
        examples: Read once, lazily.
        pad_id: Token id of the padding.
        batch_size: Rows of a batch at most.
        tokens_per_batch: Rows times columns of a batch at most, padding included. Together with `batch_size` the
            first limit reached counts, and packed rows have `tokens_per_batch // batch_size` tokens; alone, a packed
            batch is one row. An example longer than this comes alone.
        packed: Whether several examples share a row (first fit decreasing), isolated by their position ids. Without
            `tokens_per_batch` rows are as long as the longest example of the window.
        bucketed: Whether to sort by length within the window. Packing always does.
        window: Examples in memory at a time.

    Raises:
        ValueError: If neither `batch_size` nor `tokens_per_batch` is given, or one of the numbers is below 1.

    Example:
        >>> for batch in batches(examples, pad_id=0, tokens_per_batch=4096): ...   # doctest: +SKIP
    """
    limits = {"batch_size": batch_size, "tokens_per_batch": tokens_per_batch, "window": window}
    if batch_size is None and tokens_per_batch is None:
        raise ValueError("batches: give batch_size, tokens_per_batch or both.")
    for name, value in limits.items():
        if value is not None and value < 1:
            raise ValueError(f"batches: {name} must be at least 1, got {value}.")
    grouping = _Grouping(batch_size, tokens_per_batch, packed, bucketed)
    return _stream(iter(examples), grouping, window, pad_id)


class _Grouping(NamedTuple):
    """How the examples of a window become batches."""

    batch_size: int | None
    tokens: int | None
    packed: bool
    bucketed: bool


def _stream(source: Iterator[Example], how: _Grouping, window: int, pad_id: int) -> Iterator[Batch]:
    while read := list(islice(source, window)):
        lengths = [len(example.input_ids) for example in read]
        if how.packed:
            groups = _packed_groups(lengths, how.batch_size, how.tokens)
        else:
            order = sorted(range(len(read)), key=lambda i: -lengths[i]) if how.bucketed else range(len(read))
            groups = [[[i] for i in group] for group in _cut(order, lengths, how.batch_size, how.tokens)]
        groups.sort(key=lambda rows: min(min(row) for row in rows))
        for rows in groups:
            rows = sorted(rows, key=min)
            yield collate([[read[i] for i in row] for row in rows], pad_id=pad_id, packed=how.packed)


def _packed_groups(lengths: list[int], batch_size: int | None, tokens: int | None) -> list[list[list[int]]]:
    """Packed rows, `batch_size` to a batch (one where only the tokens are limited)."""
    rows_per_batch = batch_size or 1
    capacity = max(tokens // rows_per_batch, 1) if tokens else max(lengths)
    bins = first_fit_decreasing(lengths, capacity)
    totals = [sum(lengths[i] for i in row) for row in bins]
    return [[bins[b] for b in group] for group in _cut(range(len(bins)), totals, rows_per_batch, tokens)]


def _cut(
    order: Iterable[int], lengths: Sequence[int], batch_size: int | None, tokens: int | None
) -> Iterator[list[int]]:
    """Consecutive groups within both limits; an example over the token limit is a group by itself."""
    group: list[int] = []
    longest = 0
    for i in order:
        longest = max(longest, lengths[i])
        is_full = batch_size is not None and len(group) == batch_size
        if group and (is_full or (tokens is not None and (len(group) + 1) * longest > tokens)):
            yield group
            group, longest = [], lengths[i]
        group.append(i)
    if group:
        yield group
