"""Rows to a batch that carries weights, roles, tasks and row ids beside what every model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sftloss.data import Batch

_PADDING = {"labels": -100, "token_weights": 0.0, "roles": -1}
_PER_ROW = {"example_weights": torch.float32, "tasks": torch.int64}


def collate_rows(rows: Sequence[Mapping[str, Any]], *, pad_id: int, packed: bool = False) -> dict[str, Any]:
    """One batch from tokenised rows, padded at the right, or all in one row without padding.

    Bind `pad_id` with `functools.partial` and give it to a Trainer or a DataLoader.

    Args:
        rows: Each with `input_ids` and, where the data has them, `labels` (default: the input), `token_weights`,
            `roles`, `example_weights` (one number), `tasks` (one index), `row_ids`. All rows have the same columns.
        pad_id: Token id of the padding.
        packed: Whether all rows share one, kept apart by position ids; there is no attention mask then.

    Returns:
        Keyword arguments of the model.

    Raises:
        ValueError: If there is no row.

    Example:
        >>> batch = collate_rows([{"input_ids": [5, 6]}, {"input_ids": [7]}], pad_id=0)
        >>> batch["labels"]
        tensor([[   5,    6],
                [   7, -100]])
    """
    if not rows:
        raise ValueError("collate_rows: give at least one row.")
    lengths = [len(row["input_ids"]) for row in rows]
    columns = {"input_ids": [row["input_ids"] for row in rows]}
    columns["labels"] = [row.get("labels", row["input_ids"]) for row in rows]
    columns |= {name: [row[name] for row in rows] for name in ("token_weights", "roles") if name in rows[0]}
    padding = {"input_ids": pad_id, **_PADDING}
    batch: dict[str, Any] = {
        name: _laid(values, lengths, padding[name], torch.float32 if name == "token_weights" else torch.int64, packed)
        for name, values in columns.items()
    }
    if packed:
        batch["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
    else:
        batch["attention_mask"] = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    for name, dtype in _PER_ROW.items():
        if name in rows[0]:
            each = torch.tensor([row[name] for row in rows], dtype=dtype)
            batch[name] = each.repeat_interleave(torch.tensor(lengths))[None] if packed else each
    if "row_ids" in rows[0]:
        ids = [row["row_ids"] for row in rows]
        batch["row_ids"] = [ids] if packed else ids  # a packed row has one name a sequence
    return batch


def inputs_of(batch: Batch) -> dict[str, Any]:
    """A batch of :mod:`sftloss.data` as keyword arguments of an attached model.

    Its targets are aligned already, so they come as `shift_labels`; its weights say what is trained.
    """
    return {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        **({} if batch.attention_mask is None else {"attention_mask": batch.attention_mask}),
        "shift_labels": batch.targets,
        "token_weights": batch.weights,
        "roles": torch.where(batch.segments >= 0, batch.roles.long(), -1),
        "segments": batch.segments,
        "row_ids": _row_names(batch),
    }


def _row_names(batch: Batch) -> list[Any]:
    """``path:line`` of each row; of a packed one, a list with one a sequence."""
    rows = [sorted(set(row.tolist()) - {-1}) for row in batch.segments]
    names = [[str(batch.examples[i].origin) for i in row] for row in rows]
    return [row[0] if len(row) == 1 else row for row in names]


def _laid(values: list[Any], lengths: list[int], padding: float, dtype: torch.dtype, packed: bool) -> Tensor:
    parts = [torch.as_tensor(value, dtype=dtype) for value in values]
    if packed:
        return torch.cat(parts)[None]
    out = torch.full((len(parts), max(lengths)), padding, dtype=dtype)
    for row, part in zip(out, parts, strict=True):
        row[: len(part)] = part
    return out
