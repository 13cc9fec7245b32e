"""The loss weight of a row, a message or a token as the data states it, in every spelling the frameworks use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sftloss.data.reasons import BadRow, excerpt

MESSAGE_WEIGHTS = (
    "weight",  # OpenAI and Mistral fine-tuning, OpenChat: 0 or 1
    "loss_weight",  # LLaMA-Factory: any number
    "loss",  # ms-swift: bool or number
    "loss_scale",  # ms-swift: number
    "train",  # axolotl: bool
    "training",  # axolotl: bool
    "trainable",
    "loss_mask",  # prime-rl, LoongForge: 0 or 1
)
ROW_WEIGHTS = ("weight", "loss_weight", "loss_scale")
TOKEN_WEIGHTS = (
    "weights",
    "loss_weights",
    "weight",
    "loss_weight",
    "loss_scale",
    "loss_mask",
    "completion_mask",
    "assistant_masks",
)
NEGATIVE = "is_negative"
"""Marks an answer, or in rows of token ids some tokens, as wrong: their weight counts below zero."""

_MESSAGE_WEIGHTS = frozenset(MESSAGE_WEIGHTS)
_LARGEST = 1e15  # a row's weight times a message's is still far from the ends of float32


def weight_of(value: Any, name: str) -> float:
    """A weight as a float; BadRow where it is not a finite number of at least zero."""
    # bool is an int here on purpose: true trains, false does not
    if not isinstance(value, int | float):
        raise BadRow("bad-weight", f"{name} is {excerpt(value)}; write a number >= 0, or true or false")
    try:
        weight = float(value)
    except OverflowError:
        weight = math.inf
    if not math.isfinite(weight):
        raise BadRow("bad-weight", f"{name} is {weight}; write a finite number >= 0")
    if weight > _LARGEST or 0 < weight < 1 / _LARGEST:
        limits = f"{1 / _LARGEST:g} to {_LARGEST:g}"
        raise BadRow("bad-weight", f"{name} is {weight:g}; write 0 or a number from {limits}, which float32 can hold")
    if weight < 0:
        raise BadRow(
            "bad-weight",
            f"{name} is {weight:g}, and no sum of weights can normalize a signed reward; use 0 to leave the text "
            "untrained, or keep the reward in another column and give weighted_loss your own coefficients",
        )
    return weight


def message_weight(turn: Mapping[str, Any], where: str) -> float | None:
    """The weight one message (or content block) states, None where it states none."""
    if _MESSAGE_WEIGHTS.isdisjoint(turn):
        return None
    return _agreed(turn, MESSAGE_WEIGHTS, where)


def is_marked(mark: Any, where: str) -> bool:
    """Whether the data marks a text or token as wrong.

    Raises:
        BadRow: If the mark is not true or false.
    """
    if mark is None:
        return False
    if not isinstance(mark, bool | int | float) or mark not in (0, 1):
        raise BadRow("bad-weight", f"{NEGATIVE} of {where} is {excerpt(mark)}; write true for a wrong answer, or false")
    return bool(mark)


def signed(weight: float | None, mark: Any, where: str, *, is_answer: bool = True) -> float | None:
    """A weight below zero where the data marks the text as wrong.

    Raises:
        BadRow: If the mark is not true or false, or marks what is no answer.
    """
    if not is_marked(mark, where):
        return weight
    if not is_answer:
        problem = f"{where} has {NEGATIVE} and is no answer; mark an answer of the assistant instead"
        raise BadRow("bad-weight", problem)
    return -1.0 if weight is None else -weight


def row_weight(row: Mapping[str, Any], *, is_tokens: bool = False) -> float:
    """The weight of the whole row, 1 where it states none. A list in a row of tokens holds weights of the tokens."""
    names = [name for name in ROW_WEIGHTS if not is_tokens or isinstance(row.get(name), int | float | str)]
    weight = _agreed(row, names, "the row")
    return 1.0 if weight is None else weight


def _agreed(holder: Mapping[str, Any], names: Sequence[str], where: str) -> float | None:
    stated = {name: holder[name] for name in names if holder.get(name) is not None}
    weights = {name: weight_of(value, f"{name} of {where}") for name, value in stated.items()}
    if len(set(weights.values())) > 1:
        both = " and ".join(f"{name} {weight:g}" for name, weight in weights.items())
        raise BadRow("bad-weight", f"{where} has {both}; keep one of them")
    return next(iter(weights.values()), None)
