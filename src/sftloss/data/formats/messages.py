"""Conversations as a list of turns with role and content, or as its JSON text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sftloss.data.examples import Message
from sftloss.data.formats.format import Format, RawRow, way_out
from sftloss.data.formats.turns import first_of, turns
from sftloss.data.reasons import BadRow

CHATS = ("messages", "conversations", "conversation")


def chat_of(row: RawRow) -> Any:
    """The first chat column that is not null."""
    return first_of(row, CHATS)


def conversation(row: RawRow) -> list[Message]:
    """The messages of the row's chat column."""
    key = next((key for key in CHATS if row.get(key) is not None), None)
    if key is None:
        named = next((key for key in CHATS if key in row), None)
        raise BadRow("empty-messages", f"{named} is null") if named else BadRow("unknown-shape", way_out(row))
    messages = turns(row[key], key)
    if not messages:
        raise BadRow("empty-messages", f"{key} is empty")
    return messages


MESSAGES = Format(
    "messages",
    lambda row: any(key in row for key in CHATS),
    conversation,
    "`messages` (or `conversations`, `conversation`): a list of turns with `role` and `content`, or its JSON text",
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]},
    order=21,
)


def _is_sharegpt(row: RawRow) -> bool:
    turns = chat_of(row)
    first = turns[0] if isinstance(turns, list | tuple) and turns else None
    return isinstance(first, Mapping) and "from" in first and "role" not in first


SHAREGPT = Format(
    "sharegpt",
    _is_sharegpt,
    conversation,
    "`conversations` (or `messages`, `conversation`): a list of turns with `from` and `value`",
    {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
    order=20,
)
