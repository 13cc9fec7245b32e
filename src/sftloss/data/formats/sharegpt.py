"""Conversations as a list of turns with `from` and `value`."""

from __future__ import annotations

from collections.abc import Mapping

from sftloss.data.formats.format import Format, RawRow
from sftloss.data.formats.messages import chat_of, conversation


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
