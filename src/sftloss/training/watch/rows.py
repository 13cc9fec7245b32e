"""The rows behind a loss that is not finite or far above those before it, and behind a label that no model has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sftloss.statistics import IGNORED
from sftloss.training.passes import Pass, Tokens
from sftloss.words import number, percent

_SHOWN = 5


def say_non_finite(seen: Pass) -> str:
    """One sentence naming the rows whose loss is not finite, by the batch's `row_ids` where it has them."""
    bad = ~torch.isfinite(seen.weighted_losses()) & seen.is_counted
    places = _places(seen.tokens, torch.nonzero(bad)[:, 0])
    if not places:
        return "sftloss: the loss is not finite, though every token's is; check the weights and the normalizer."
    if bool((bad == seen.is_counted).all()):
        return (
            f"sftloss: the loss is not finite at every one of the {int(bad.sum())} trained tokens, so the cause is the "
            "model and not a row; check its weights for NaN, its precision, the learning rate and the token weights."
        )
    row_ids = seen.batch.get("row_ids")
    names = [name_of(place, row_ids) for place in places[:_SHOWN]]
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    hint = "" if row_ids is not None else " (put row_ids into the batch to have them named)"
    return (
        f"sftloss: the loss is not finite at {int(bad.sum())} tokens of {', '.join(names)}{more}{hint}; look at "
        "these rows, lower the learning rate, or check the last checkpoint for NaN."
    )


def refuse_outside(tokens: Tokens, row_ids: Any, vocab: int) -> None:
    """Refuse labels that the model has no logit for, before a kernel reads beyond the head's rows."""
    targets = tokens.targets
    if targets.device.type != "cpu":  # the check would wait for the device
        return
    at = torch.nonzero((targets != IGNORED) & ((targets < 0) | (targets >= vocab)))[:1, 0]
    for place in _places(tokens, at):
        raise ValueError(
            f"sftloss: {name_of(place, row_ids)} has the label {int(targets[at])}, the model's vocabulary ends at "
            f"{vocab - 1}; use {IGNORED} for tokens to ignore, and the tokenizer that the model was made for."
        )


def say_largest(seen: Pass, *, task: int | None = None, shown: int = 3) -> str:
    """The rows with the largest part of the micro-batch's loss, as ``data.jsonl:7 (71 % of it, 9.20 a token)``.

    With a `task`, only its tokens count: the rows and the parts are those of the task's loss.
    """
    losses, is_kept = seen.weighted_losses().double(), seen.is_counted
    if task is not None and seen.tokens.tasks is not None:
        is_kept = is_kept & (seen.tokens.tasks == task).to(is_kept.device)
    kept = torch.nonzero(is_kept)[:, 0]
    keys, index = torch.unique(_keys(seen.tokens)[kept.to(seen.tokens.segments.device)], return_inverse=True)
    sums, sizes = (
        losses.new_zeros(len(keys)).index_add_(0, index.to(losses.device), values)
        for values in (losses[kept], seen.coefficients[kept].abs().double())
    )
    total = float(sums.clamp(min=0).sum()) or 1.0
    rows = []
    for i in torch.argsort(sums, descending=True)[:shown].tolist():
        name = name_of(divmod(int(keys[i]), seen.tokens.columns), seen.batch.get("row_ids"))
        rows.append(f"{name} ({percent(float(sums[i]) / total)} of it, {number(float(sums[i] / sizes[i]))} a token)")
    return ", ".join(rows)


def name_of(place: tuple[int, int], row_ids: Any) -> str:
    """A sequence's name: `row_ids` has one name a row, or a list with one name a sequence of the (packed) row."""
    row, sequence = place
    ids = row_ids.tolist() if isinstance(row_ids, Tensor) else row_ids or ()
    if row >= len(ids):
        return f"row {row} of the micro-batch"
    name = ids[row]
    if isinstance(name, (list, tuple)):
        name = name[sequence] if sequence < len(name) else " + ".join(map(str, name))
    return str(name)


def _keys(tokens: Tokens) -> Tensor:
    """One number for each (row, sequence) of a token, increasing along the batch."""
    segments, columns = tokens.segments, tokens.columns
    rows = torch.arange(len(segments), device=segments.device) // columns
    starts = torch.ones_like(segments)
    starts[1:] = (segments[1:] != segments[:-1]).long()
    run = starts.cumsum(0) - 1
    first = run.view(-1, columns)[:, 0]
    return rows * columns + run - first[rows]


def _places(tokens: Tokens, at: Tensor) -> list[tuple[int, int]]:
    """Row, and sequence within it, of these tokens."""
    keys = torch.unique(_keys(tokens)[at.to(tokens.segments.device)])
    return [divmod(key, tokens.columns) for key in keys.tolist()]
