"""Rewrite a conversation that a chat template refuses. No text is left out, and a note says what was changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from sftloss.data.examples import Message
from sftloss.data.rendering.marks import Style, kind_of

_ID = re.compile(r"[a-zA-Z0-9]{9}")
_IN_USER = {
    "late system": "system texts behind the first message are written into the message of the user that follows",
    "system": "the system text is written into the message of the user that follows",
    "tool": "results of tools are written as messages of the user",
}


@dataclass(frozen=True)
class Adaptation:
    """A rewritten conversation: its messages, the kinds written as the user's (`Style.as_user`), and a description."""

    messages: Sequence[Message]
    as_user: frozenset[str] | None
    sentence: str


def adaptations(messages: Sequence[Message], style: Style) -> Iterator[Adaptation]:
    """Rewritings of a conversation that the template refuses, the smallest change first."""
    kinds = [kind_of(message, number) for number, message in enumerate(messages)]
    ways = [(), ("late system",), ("late system", "system")]
    if style.calls == "text":  # a template with a format for tool calls has one for their results
        ways += [(*way, "tool") for way in ways]
    seen: set[frozenset[str]] = set()
    for way in ways:
        as_user = frozenset(way).intersection(kinds)
        if as_user in seen or not (as_user or any(a == b for a, b in pairwise(kinds))):
            continue
        seen.add(as_user)
        moved = [_IN_USER[kind] for kind in way if kind in as_user]
        yield Adaptation(messages, as_user, ", and ".join(moved) or "consecutive messages of one role are joined")
    if any(message.tool_calls for message in messages):
        yield Adaptation(_with_ids(messages), None, "ids of tool calls are replaced by ids of nine letters and digits")


def _with_ids(messages: Sequence[Message]) -> list[Message]:
    """The conversation with tool call ids in Mistral's format. A call and its result still share one id."""
    changed: list[Message] = []
    waiting: list[str] = []
    for number, message in enumerate(messages):
        calls: list[Mapping[str, Any]] = []
        for i, call in enumerate(message.tool_calls):
            old = str(call.get("id") or f"{number}.{i}")
            calls.append({**call, "id": _short_id(old)})
        extra = message.extra
        if message.role == "tool":
            old = str(extra.get("tool_call_id") or "")
            new = _short_id(old)
            own = new if _ID.fullmatch(old) or new in waiting or not waiting else waiting[0]
            waiting = [one for one in waiting if one != own]
            extra = {**extra, "tool_call_id": own}
        waiting += [str(call["id"]) for call in calls]
        changed.append(replace(message, tool_calls=tuple(calls), extra=extra))
    return changed


def _short_id(old: str) -> str:
    """An id of nine letters and digits: the old id where it fits, otherwise a hash of it."""
    return old if _ID.fullmatch(old) else hashlib.blake2b(old.encode(), digest_size=5).hexdigest()[:9]
