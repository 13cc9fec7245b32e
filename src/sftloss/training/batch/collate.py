"""Rows to a batch that carries weights, roles, tasks and row ids beside what every model takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sftloss.data import Batch
from sftloss.errors import ConfigError
from sftloss.statistics import IGNORED
from sftloss.training.batch.tokens import read_tokens
from sftloss.training.loss import Loss
from sftloss.training.passes import Trained

# type of the values and what stands where there is no token; other columns keep their type and are padded with 0
_COLUMNS: Mapping[str, tuple[torch.dtype, float]] = {
    "input_ids": (torch.int64, 0),
    "labels": (torch.int64, IGNORED),
    "roles": (torch.int64, -1),
    "segments": (torch.int64, -1),
    "tasks": (torch.int64, -1),
    "token_weights": (torch.float32, 0.0),
    "example_weights": (torch.float32, 0.0),
}


def collate_rows(
    rows: Sequence[Mapping[str, Any]], *, pad_id: int, packed: bool = False, extras: Sequence[str] = ()
) -> dict[str, Any]:
    """One batch from tokenised rows, padded at the right, or all in one row without padding.

    Bind `pad_id` with `functools.partial` and give it to a Trainer or a DataLoader.

    Args:
        rows: Each with `input_ids` and, where the data has them, `labels` (default: the input), `token_weights`,
            `roles`, `example_weights` (one number), `tasks` (one index), `row_ids`. All rows have the same columns.
        pad_id: Token id of the padding.
        packed: Whether all rows share one, kept apart by position ids; there is no attention mask then.
        extras: Further columns that the loss reads (``loss.extras``), with one value or K values a token.

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
    rows = [{"labels": row["input_ids"], **row} for row in rows]
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    width = int(lengths.sum() if packed else lengths.max())
    names = ("token_weights", "roles", "example_weights", "tasks", "row_ids")
    batch = lay_columns(rows, ("input_ids", "labels", *names, *extras), width, is_flat=packed)
    if packed:
        batch["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
    else:
        batch["attention_mask"] = (torch.arange(width)[None] < lengths[:, None]).long()
        batch["input_ids"] = torch.where(batch["attention_mask"] != 0, batch["input_ids"], pad_id)
    return batch


@dataclass(frozen=True)
class CarryColumns:
    """Makes batches as `collate` does, with the columns of the rows that TRL's and flattening collators leave out.

    Attributes:
        collate: A collator. TRL's pad at the right, or lay all rows out in one (with a true `padding_free`), as does
            transformers' `DataCollatorWithFlattening`.
        names: The columns.
        keeps_end: Whether rows were truncated at their start.

    Raises:
        ConfigError: If another collator leaves weights out, which would then be lost.
    """

    collate: Callable[[list[Any]], dict[str, Any]]
    names: tuple[str, ...]
    keeps_end: bool = False

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        batch = self.collate(rows)
        columns = rows[0] if isinstance(rows[0], Mapping) and isinstance(batch, Mapping) else ()
        names = [name for name in self.names if name in columns and name not in batch]
        is_flattening = any(cls.__name__ == "DataCollatorWithFlattening" for cls in type(self.collate).__mro__)
        is_flat = is_flattening or bool(getattr(self.collate, "padding_free", False))
        is_trl = type(self.collate).__module__.startswith("trl.") and hasattr(self.collate, "padding_free")
        if is_flat or is_trl:
            return batch | lay_columns(rows, names, batch["labels"].shape[1], is_flat=is_flat, keeps_end=self.keeps_end)
        lost = [name for name in names if name in ("token_weights", "example_weights")]
        if lost and "loss_weights" not in batch:
            problem = f"the rows have {lost[0]}, which the batches of {type(self.collate).__name__} do not hold"
            raise ConfigError(problem, cure="use sftloss.training.collate_rows as data_collator, or remove the column")
        return batch


class CountTrained:
    """Makes batches as `collate` does, and counts in each the tokens that will be trained.

    With this number under ``trained_tokens`` a model on a GPU drops the other tokens without a wait for the device.
    :func:`with_loss` does it by itself. The batch must reach the model as it is: other labels or weights than those
    counted raise an error, batches of another shape are counted again on the device.

    Args:
        collate: A collator.
        loss: The loss that will be trained. Factors by task may be zero, so with them nothing is counted.

    Example:
        >>> from functools import partial
        >>> collate = CountTrained(partial(collate_rows, pad_id=0), Loss())
        >>> collate([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}])["trained_tokens"]
        Trained(2, (1, 3))
    """

    def __init__(self, collate: Callable[[list[Any]], Any], loss: Loss) -> None:
        self.collate, self.is_counting = collate, not loss.task_factor.is_weighting
        # all that decides which tokens have a weight; an objective need not be picklable, as a worker's collator must
        self.loss = Loss(normalization=loss.normalization, normalizer=loss.normalizer, roles=loss.roles)

    def __call__(self, rows: list[Any]) -> Any:
        batch = self.collate(rows)
        labels = next((batch[n] for n in ("shift_labels", "labels") if batch.get(n) is not None), None)
        if self.is_counting and labels is not None:
            with suppress(ValueError):  # what cannot be read is refused where the step is counted
                number = int((read_tokens(self.loss, batch).weights != 0).sum())
                batch["trained_tokens"] = Trained(number, labels.shape)
        return batch


def lay_columns(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], width: int, *, is_flat: bool, keeps_end: bool = False
) -> dict[str, Any]:
    """The columns of the rows that are there, as a batch of `width` columns has them, or one with all rows in one.

    A column holds one value a row, or one a token; the latter may be longer than the tokens of a truncated row.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    batch: dict[str, Any] = {}
    for name in (name for name in names if name in rows[0]):
        values = [row[name] for row in rows]
        if name == "row_ids":  # a packed row has a name a sequence
            named = [[v for v in value if v] if isinstance(value, list) else value for value in values]
            batch[name] = [named] if is_flat else named
            continue
        dtype, padding = _COLUMNS.get(name, (None, 0))
        parts = [_tensor(name, value, dtype) for value in values]
        if parts[0].dim() == 0 and not is_flat:
            batch[name] = torch.stack(parts)
            continue
        parts = [_cut(part, length, keeps_end) for part, length in zip(parts, lengths, strict=True)]
        parts = [torch.cat(parts)] if is_flat else parts
        batch[name] = torch.full((len(parts), width, *parts[0].shape[1:]), padding, dtype=parts[0].dtype)
        for row, part in zip(batch[name], parts, strict=True):
            row[: len(part)] = part
    return batch


def inputs_of(batch: Batch) -> dict[str, Any]:
    """A batch of :mod:`sftloss.data` as keyword arguments of an attached model.

    Its targets are aligned already, so they come as `shift_labels`; its weights say what is trained. Weights of whole
    rows come as `example_weights`, which T does not count.
    """
    of_rows = torch.tensor([example.row_weight for example in batch.examples])
    weights = {"token_weights": batch.weights}
    if bool((of_rows != 1).any()):
        at = of_rows[batch.segments.clamp(min=0)]
        weights = {"token_weights": batch.weights / at, "example_weights": at}
    names = [[str(batch.examples[i].origin) for i in sorted(set(row.tolist()) - {-1})] for row in batch.segments]
    return {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        **({} if batch.attention_mask is None else {"attention_mask": batch.attention_mask}),
        "shift_labels": batch.targets,
        **weights,
        "roles": torch.where(batch.segments >= 0, batch.roles.long(), -1),
        "segments": batch.segments,
        **batch.extras,
        "row_ids": [name[0] if len(name) == 1 else name for name in names],  # of a packed row, one name a sequence
    }


def _tensor(name: str, values: Any, dtype: torch.dtype | None) -> Tensor:
    """The values in this type; a weight that float32 cannot hold is refused."""
    tensor = torch.as_tensor(values, dtype=dtype)
    if dtype == torch.float32:
        exact = torch.as_tensor(values, dtype=torch.float64)
        lost = exact[~torch.isfinite(tensor) | ((tensor == 0) & (exact != 0))]
        if lost.numel():
            raise ValueError(f"collate_rows: {name} holds {float(lost.flatten()[0]):g}, which float32 cannot hold.")
    return tensor


def _cut(values: Tensor, length: int, keeps_end: bool) -> Tensor:
    """One value a token."""
    if values.dim() == 0:
        return values.expand(length)
    return values[len(values) - length :] if keeps_end else values[:length]
