"""TRL's preparation of a data set, with the columns that a loss reads."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from sftloss.errors import ConfigError
from sftloss.roles import PROMPT, RESPONSE
from sftloss.statistics import IGNORED


def columns_of(dataset: Any, names: Sequence[str]) -> list[str]:
    """Those of the names that are columns of the data set."""
    present = getattr(dataset, "column_names", None) or list(next(iter(dataset), {}))
    return [name for name in names if name in present]


def has_prompts(dataset: Any, trainer: Any, args: Any) -> bool:
    """Whether the rows have a prompt and a completion, and TRL's labels ignore the prompt and nothing else."""
    names = columns_of(dataset, ("prompt", "completion", "roles", "input_ids", "labels"))
    return names == ["prompt", "completion"] and trainer.completion_only_loss and not args.assistant_only_loss


def with_roles(prepare: Callable[..., Any], *args: Any) -> Any:
    """What `SFTTrainer._prepare_dataset` makes of rows with a prompt and a completion, and the role of each token."""
    return prepare(*args).map(lambda row: {"roles": [PROMPT if x == IGNORED else RESPONSE for x in row["labels"]]})


def pack_with_columns(
    prepare: Callable[..., Any], dataset: Any, names: Sequence[str], processing_class: Any, args: Any, more: Any
) -> Any:
    """What `SFTTrainer._prepare_dataset` (`prepare`) makes of a data set, packed, with these columns; TRL keeps two.

    `prepare` tokenizes here and packs nothing. Columns have one value a row or a token.
    """
    from trl.data_utils import pack_dataset

    whole = copy.copy(args)
    whole.max_length, whole.shuffle_dataset = None, False
    rows = prepare(dataset, processing_class, whole, False, *more)
    rows = rows.map(_per_token, fn_kwargs={"names": names}).select_columns(["input_ids", "labels", *names])
    rows = rows.shuffle(seed=args.seed) if args.shuffle_dataset else rows
    rows = pack_dataset(rows, args.max_length, args.packing_strategy)
    return rows.shuffle(seed=args.seed) if args.shuffle_dataset else rows


def _per_token(row: dict[str, Any], names: Sequence[str]) -> dict[str, list[Any]]:
    count, out = len(row["input_ids"]), {}
    for name in names:
        value = row[name]
        if not isinstance(value, list):  # the name of a row stands at its first token only
            value = [value] + [""] * (count - 1) if name == "row_ids" else [value] * count
        if len(value) != count:
            raise ConfigError(f"with_loss: a row has {len(value)} values of {name} for {count} tokens; give one each.")
        out[name] = value
    return out
