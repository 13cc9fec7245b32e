"""The texts of a conversation, enclosed in marks, so that a rendering shows where each of them ended up."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sftloss.data.examples import Message
from sftloss.data.formats.tools import tool_calls

Kind = Literal["text", "reasoning", "call", "argument"]
Place = tuple[int, int]

# code points that stand for no character, or for nobody's; the first block that a conversation does not use is taken
_BLOCKS = (0xFDD0, 0xFFF80, 0x10FF80)
_DIGITS = 16
_THINK = re.compile(r"(</?think>)")
THOUGHTS = ("reasoning_content", "reasoning", "thinking")

JOINER = "\n\n"
"""What stands between the contents of messages that are joined."""


@dataclass(frozen=True)
class Piece:
    """One text of a message; `is_marked` is False for names, numbers and the like, which can only be looked for."""

    message: int
    kind: Kind
    text: str
    is_marked: bool = True


@dataclass(frozen=True)
class Style:
    """The shape in which a chat template takes messages.

    Attributes:
        blocks: Content is a list of text blocks, not a string.
        reasoning: Fields of its own that hold reasoning; without one it is a part of the content.
        calls: Arguments of tool calls are objects, JSON strings, or the calls are JSON text in the content.
        empty: A message of nothing but calls has an empty content, not none.
        as_user: Messages of these kinds (`kind_of`) are the user's, and consecutive messages of one role are joined.
            None leaves every message as it is.
    """

    blocks: bool = False
    reasoning: tuple[str, ...] = THOUGHTS
    calls: Literal["object", "string", "text"] = "object"
    empty: bool = True
    as_user: frozenset[str] | None = None


@dataclass
class Marks:
    """The marks of one conversation: around each text, or, for templates that trim, `inside` its outer whitespace.

    With `block` None nothing is marked and the pieces are only listed.
    """

    block: int | None
    inside: bool = False
    pieces: list[Piece] = field(default_factory=list)

    def mark(self, message: int, kind: Kind, text: str) -> str:
        """The text with marks."""
        core = text.strip() if self.inside else text
        if not core:
            return text
        at, number = text.index(core), len(self.pieces)
        self.pieces.append(Piece(message, kind, core))
        if self.block is None:
            return text
        code = "".join(chr(self.block + 3 + int(digit, _DIGITS)) for digit in f"{number:x}") + chr(self.block + 2)
        return f"{text[:at]}{chr(self.block)}{code}{core}{chr(self.block + 1)}{code}{text[at + len(core) :]}"

    def value(self, message: int, value: Any) -> Any:
        """An argument with its strings marked."""
        if isinstance(value, str):
            return self.mark(message, "argument", value)
        if isinstance(value, Mapping):
            self.pieces += [Piece(message, "argument", str(key), is_marked=False) for key in value]
            return {key: self.value(message, inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(message, inner) for inner in value]
        if value is not None:
            self.pieces.append(Piece(message, "argument", json.dumps(value, default=str), is_marked=False))
        return value

    def read(self, marked: str) -> tuple[str, list[Place | None]]:
        """The rendering without marks, and the first place of each piece; None where a mark of it is missing."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        parts, size, at = [], 0, 0
        block = self.block or 0
        code = f"[{chr(block)}{chr(block + 1)}]([{chr(block + 3)}-{chr(block + 3 + _DIGITS)}]+){chr(block + 2)}"
        for match in re.finditer(code, marked):
            parts.append(marked[at : match.start()])
            size, at = size + len(parts[-1]), match.end()
            number = int("".join(f"{ord(digit) - block - 3:x}" for digit in match[1]), _DIGITS)
            is_start = match[0][0] == chr(block)
            (first if is_start else last).setdefault(number, size)
        parts.append(marked[at:])
        places = [(first[i], last[i]) if first.get(i, 1) <= last.get(i, 0) else None for i in range(len(self.pieces))]
        return "".join(parts), places


def free_block(messages: Sequence[Message]) -> int | None:
    """The first of 32 code points that the conversation does not use, for marks."""
    text = json.dumps([[m.content, m.reasoning, m.tool_calls] for m in messages], ensure_ascii=False, default=str)
    return next((block for block in _BLOCKS if not re.search(f"[{chr(block)}-{chr(block + 31)}]", text)), None)


def dressed(messages: Sequence[Message], style: Style, marks: Marks) -> list[dict[str, Any]]:
    """The messages in the shape that a template takes; what it has no field for goes into the content as text."""
    ready: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        one = _dressed(message, number, style, marks)
        if style.as_user is not None and kind_of(message, number) in style.as_user:
            one["role"] = "user"
        if style.as_user is not None and ready and _can_join(ready[-1], one):
            ready[-1] |= {"content": _joined(ready[-1]["content"], one["content"])}
        else:
            ready.append(one)
    return ready


def kind_of(message: Message, number: int) -> str:
    """The role of a message; of a system text that is not the first message, ``"late system"``."""
    return "late system" if message.role == "system" and number else message.role


def _can_join(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two messages are of one role, and the second is nothing but content."""
    return one["role"] == other["role"] and "tool_calls" not in one and not other.keys() & {"tool_calls", *THOUGHTS}


def _joined(one: Any, other: Any) -> Any:
    if isinstance(one, str):
        return one + JOINER + other
    return [{"type": "text", "text": one[0]["text"] + JOINER + other[0]["text"]}]


def _dressed(message: Message, number: int, style: Style, marks: Marks) -> dict[str, Any]:
    ready: dict[str, Any] = {"role": message.role, **message.extra}
    thought, content = "", message.content
    if message.reasoning and style.reasoning:
        shown = marks.mark(number, "reasoning", message.reasoning)
        ready |= dict.fromkeys(style.reasoning, shown)
    elif message.reasoning:
        thought = f"<think>\n{marks.mark(number, 'reasoning', message.reasoning)}\n</think>\n\n"
    text = thought + _content(content, number, message.role, marks)
    calls = [_call(call, number, style, marks) for call in tool_calls(message.tool_calls, f"message {number + 1}")]
    if calls and style.calls == "text":
        lines = "\n".join(json.dumps(call["function"], ensure_ascii=False) for call in calls)
        text = f"{text}\n{lines}" if text else lines
    elif calls:
        ready["tool_calls"] = calls
    if text or not calls or style.empty:
        ready["content"] = [{"type": "text", "text": text}] if style.blocks else text
    return ready


def _content(content: str, number: int, role: str, marks: Marks) -> str:
    """Content with its words marked; of an answer the inline reasoning is a piece of its own."""
    if role != "assistant" or "</think>" not in content:
        return marks.mark(number, "text", content)
    parts, is_thought = _THINK.split(content), content.find("</think>") < (content + "<think>").find("<think>")
    marked = []
    for part in parts:
        is_tag = bool(_THINK.fullmatch(part))
        marked.append(part if is_tag else marks.mark(number, "reasoning" if is_thought else "text", part))
        is_thought = part == "<think>" if is_tag else is_thought
    return "".join(marked)


def _call(call: Mapping[str, Any], number: int, style: Style, marks: Marks) -> dict[str, Any]:
    name = marks.mark(number, "call", call["function"]["name"])
    arguments = marks.value(number, call["function"]["arguments"])
    if style.calls == "string":
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {"name": name, "arguments": arguments}}


def spellings(text: str) -> tuple[str, ...]:
    """The ways in which a template may write a text: as it is, as JSON, as HTML, as Python."""
    as_json = (json.dumps(text, ensure_ascii=is_ascii)[1:-1] for is_ascii in (False, True))
    as_html = (html.escape(text), html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"))  # Jinja's
    return tuple(dict.fromkeys((text, *as_json, *as_html, repr(text)[1:-1])))


def search(text: str, pieces: Sequence[Piece], headers: Mapping[int, Sequence[str]]) -> list[Place | None]:
    """Places of pieces in a text without marks: one after the other, each message behind the first of its headers."""
    places: list[Place | None] = []
    at, owner = 0, -1
    for piece in pieces:
        if piece.message != owner:
            starts = ((text.find(header, at), header) for header in headers.get(piece.message, ()) if header)
            at = next((start + len(header) for start, header in starts if start >= 0), at)
        ways = [(text.find(way, at), way) for way in spellings(piece.text)] if piece.is_marked else []
        begin, way = min((one for one in ways if one[0] >= 0), default=(-1, ""))
        places.append((begin, begin + len(way)) if begin >= 0 else None)
        at, owner = (begin + len(way) if begin >= 0 else at), piece.message
    return places
