"""Messages, ShareGPT turns and Anthropic-style blocks: one turn in any spelling to a Message."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sftloss.data.examples import Message
from sftloss.data.formats.tools import tool_calls
from sftloss.data.formats.weights import MESSAGE_WEIGHTS, NEGATIVE, message_weight, signed
from sftloss.data.reasons import BadRow, excerpt

_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bard", "bing", "model", "bot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "observation", "function_response", "function", "tool_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "function_call"),
}
_CONTENT = ("content", "value", "text")
_REASONING = ("reasoning_content", "thinking", "reasoning")
_READ = {
    "role",
    "from",
    *_CONTENT,
    *_REASONING,
    "tool_calls",
    "function_call",
    "train_detail",
    NEGATIVE,
    *MESSAGE_WEIGHTS,
}
_TEXT_KEYS = ("text", "value", "content")
_TEXT_BLOCKS = ("text", "input_text", "output_text")
_REASONING_BLOCKS = ("thinking", "reasoning")
_CALL_BLOCKS = ("tool_use", "tool_call")
_MEDIA_BLOCKS = (
    "image", "image_url", "input_image", "audio", "input_audio", "audio_url", "video", "video_url", "file"
)  # fmt: skip


def turns(value: Any, name: str) -> list[Message]:
    """The messages of a list of turns, or of its JSON text.

    Args:
        value: The list or the text.
        name: Its column, for messages.

    Raises:
        BadRow: With the number of the message, counted from 1.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            detail = f"{name} is the text {excerpt(value, 40)}; write a list of messages, or its JSON text"
            raise BadRow("non-string-content", detail) from None
    if not isinstance(value, list | tuple):
        raise BadRow("non-string-content", f"{name} is {excerpt(value, 40)}, not a list of messages")
    return [_turn(turn, f"message {number}") for number, turn in enumerate(value, start=1)]


def _turn(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRow("non-string-content", f"{where} is {excerpt(turn, 40)}, not an object with role and content")
    if turn.get("train_detail"):
        raise BadRow("unsupported-content", f"{where} has train_detail; split the message and give each part its train")
    role, content, weight = _role(turn, where), first_of(turn, _CONTENT), message_weight(turn, where)
    if role == "function_call":
        return Message("assistant", "", weight, tool_calls(content, where))
    calls = turn.get("tool_calls") or turn.get("function_call")
    parts = _Parts(tool_calls(calls, where) if calls else (), _reasoning(turn, where))
    if isinstance(content, str):
        parts.texts.append(content)
    elif role == "tool" and _is_data(content):
        parts.texts.append(json.dumps(content, ensure_ascii=False))
    elif content is not None:
        role = parts.add_blocks(content, role, where)
    elif role != "assistant":  # an assistant without content is judged with the whole row: its calls may be the answer
        raise BadRow("non-string-content", f"{where} ({role}) has no content; write one")
    extra = {str(key): value for key, value in turn.items() if key not in _READ and value is not None} | parts.extra
    content = "".join(parts.texts)
    weight = parts.weight(weight, where)
    if turn.get(NEGATIVE):
        weight = signed(weight, turn[NEGATIVE], f"{where} ({role})", is_answer=role == "assistant")
    return Message(role, content, weight, parts.calls, parts.reasoning or None, extra)


def first_of(holder: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """The first value that is not null."""
    return next((holder[key] for key in keys if holder.get(key) is not None), None)


def _role(turn: Mapping[str, Any], where: str) -> str:
    name = first_of(turn, ("role", "from"))
    role = _ROLES.get(name) or _ROLES.get(name.strip().casefold()) if isinstance(name, str) else None
    if role is None:
        shown = "no role" if name is None else f"the role {excerpt(name, 40)}"
        raise BadRow("unknown-role", f"{where} has {shown}; use user, assistant, system or tool")
    return role


def _reasoning(turn: Mapping[str, Any], where: str) -> str:
    value = first_of(turn, _REASONING)
    if not isinstance(value, str | None):
        raise BadRow("non-string-content", f"the reasoning of {where} is {excerpt(value, 40)}, not a text")
    return value or ""


@dataclass
class _Parts:
    """The parts of one message, as its blocks are read."""

    calls: tuple[Mapping[str, Any], ...]
    reasoning: str
    texts: list[str] = field(default_factory=list)
    weights: set[float | None] = field(default_factory=set)
    extra: dict[str, Any] = field(default_factory=dict)

    def add_blocks(self, blocks: Any, role: str, where: str) -> str:
        """Add every block; the role is `tool` where all of them are tool results, else the given one."""
        if not isinstance(blocks, list | tuple):
            raise BadRow("non-string-content", f"the content of {where} is {excerpt(blocks, 40)}, not a text")
        results = [block for block in blocks if isinstance(block, Mapping) and block.get("type") == "tool_result"]
        if results and len(results) < len(blocks):
            raise BadRow("unsupported-content", f"{where} mixes tool results with other blocks; give them own messages")
        for block in blocks:
            self._add({"text": block} if isinstance(block, str) else block, where)
        return "tool" if results else role

    def weight(self, stated: float | None, where: str) -> float | None:
        """The one weight of the message; its blocks may state it, but not disagree."""
        weights = self.weights or {None}
        if stated is not None:
            weights = (weights - {None}) | {stated}
        if len(weights) > 1:
            raise BadRow("bad-weight", f"the blocks of {where} have different weights; split it into several messages")
        return next(iter(weights))

    def _add(self, block: Any, where: str) -> None:
        if not isinstance(block, Mapping):
            raise BadRow("non-string-content", f"a block of {where} is {excerpt(block, 40)}, not a text or object")
        kind = block.get("type", "text")
        kind = kind if isinstance(kind, str) else repr(kind)
        if kind in _MEDIA_BLOCKS:
            detail = f"{where} has a block of type {kind}; only text is read, remove such rows"
            raise BadRow("unsupported-content", detail)
        self.weights.add(message_weight(block, where))
        if kind in _CALL_BLOCKS:
            self.calls += tool_calls(block if "name" in block else block.get("value", block.get("tool_call")), where)
        elif kind == "tool_result":
            self.texts.append(_result(block.get("content"), where))
            if isinstance(block.get("tool_use_id"), str):
                self.extra["tool_call_id"] = block["tool_use_id"]
        elif kind in _REASONING_BLOCKS:
            self.reasoning += _block_text(block, (*_REASONING, *_CONTENT), where)
        elif kind in _TEXT_BLOCKS:
            self.texts.append(_block_text(block, _TEXT_KEYS, where))
        else:
            raise BadRow("unsupported-content", f"{where} has a block of type {excerpt(kind, 40)}; write it as text")


def _is_data(content: Any) -> bool:
    """Whether the result of a tool is data, which becomes JSON, and neither a text nor blocks."""
    blocks = content if isinstance(content, list | tuple) else [content]
    types = (*_TEXT_BLOCKS, *_MEDIA_BLOCKS, "tool_result")
    is_text = all(
        isinstance(block, str) or isinstance(block, Mapping) and block.get("type") in types for block in blocks
    )
    return content is not None and not (is_text and blocks)


def _result(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if _is_data(content):
        return json.dumps(content, ensure_ascii=False)
    blocks = content if isinstance(content, list | tuple) else [content]
    return "".join(block if isinstance(block, str) else _block_text(block, _TEXT_KEYS, where) for block in blocks)


def _block_text(block: Mapping[str, Any], keys: Sequence[str], where: str) -> str:
    value = first_of(block, keys)
    if not isinstance(value, str):
        raise BadRow("non-string-content", f"a text block of {where} holds {excerpt(value, 40)}, not a text")
    return value
