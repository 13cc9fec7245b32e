"""A raw row of any supported format -> Record. The format is detected row by row; null means absent everywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sftloss.data.examples import Message, Origin, Record
from sftloss.data.formats.columns import CHATS, CONTEXTS, PAIR_NAMES, PAIRS, PROMPTS, RESPONSES, Shape, renamed, way_out
from sftloss.data.formats.language import script_of
from sftloss.data.formats.tokens import tokens
from sftloss.data.formats.tools import tools
from sftloss.data.formats.turns import turns
from sftloss.data.formats.weights import row_weight
from sftloss.data.reasons import BadRow, excerpt

_TASKS, _LANGUAGES = ("task", "category", "type"), ("language", "lang")
_SOURCES = ("source", "dataset", "channel", "subset")
_MEDIA = ("images", "image", "videos", "video", "audios", "audio")


def detect_format(row: Mapping[str, Any]) -> str:
    """The name of the row's format, one of `FORMATS`.

    Token ids win over messages, messages over pairs of columns, pairs over `text`: the more a row says about who
    speaks, the better. `messages` and `conversations` hold role/content or from/value ("sharegpt"); the name of a
    pair is its two columns, as "question/answer", except "alpaca" (instruction/output).

    Raises:
        BadRow: ``unknown-shape``, naming the row's columns and the nearest way out.

    Example:
        >>> detect_format({"question": "2 + 2?", "answer": "4"})
        'question/answer'
    """
    for has in (lambda key: row.get(key) is not None, lambda key: key in row):  # a null answer is still a shape
        if has("input_ids"):
            return "tokens"
        chat = next((key for key in CHATS if has(key)), None)
        if chat is not None:
            return _chat_format(row[chat])
        prompt = next((key for key in PROMPTS if has(key)), None)
        response = next((key for key in RESPONSES if has(key)), None)
        if prompt is not None and response is not None:
            return PAIR_NAMES[prompt, response]
        if has("text"):
            return "text"
    raise BadRow("unknown-shape", way_out(row))


def _chat_format(value: Any) -> str:
    first = value[0] if isinstance(value, list | tuple) and value else None
    return "sharegpt" if isinstance(first, Mapping) and "from" in first and "role" not in first else "messages"


def to_record(
    row: Mapping[str, Any], origin: Origin, *, shape: Shape | None = None, source: str | None = None
) -> tuple[Record, str]:
    """The record of a row and the name of its format.

    Args:
        row: A raw row.
        origin: Where it came from.
        shape: A format or column names the user gave; None looks at the row alone.
        source: The record's source where the row names none.

    Raises:
        BadRow: If the row cannot be used.
    """
    shape = shape or Shape()
    row = renamed(row, shape.columns) if shape.columns else row
    for name in _MEDIA:
        if _filled(row.get(name)):
            raise BadRow("unsupported-content", f"the row has {name}; only text is read, remove such rows")
    name = shape.format or detect_format(row)
    messages = text = ids = None
    if name == "tokens":
        ids = tokens({**row, "input_ids": _required(row, "input_ids")})
        answer = None
    elif name == "text":
        text = answer = _text(_required(row, "text"), "text")
        if not text.strip():
            raise BadRow("empty-answer", "text is empty")
    else:
        messages = _chat(row) if name in ("messages", "sharegpt") else _pair(row, *PAIRS[name])
        answer = _checked(messages)
    record = Record(
        origin=origin,
        messages=messages,
        text=text,
        tokens=ids,
        tools=tools(row.get("tools", row.get("functions"))) if messages else None,
        task=_label(row, _TASKS),
        language=_label(row, _LANGUAGES) or (script_of(answer) if answer else None),
        source=_label(row, _SOURCES) or source,
        weight=row_weight(row, is_tokens=ids is not None),
    )
    _refuse_surrogates(record)
    return record, name


def _filled(value: Any) -> bool:
    return value is not None and value is not False and (len(value) > 0 if hasattr(value, "__len__") else True)


def _required(row: Mapping[str, Any], name: str) -> Any:
    if row.get(name) is None:
        raise BadRow("unknown-shape", f"no {name}; {way_out(row)}")
    return row[name]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadRow("non-string-content", f"{name} is {excerpt(value, 40)}, not a text")
    return value


def _chat(row: Mapping[str, Any]) -> tuple[Message, ...]:
    key = next((key for key in CHATS if row.get(key) is not None), None)
    if key is None:
        named = next((key for key in CHATS if key in row), None)
        raise BadRow("empty-messages", f"{named} is null") if named else BadRow("unknown-shape", way_out(row))
    messages = turns(row[key], key)
    if not messages:
        raise BadRow("empty-messages", f"{key} is empty")
    return (*_system(row, messages), *messages)


def _system(row: Mapping[str, Any], messages: list[Message]) -> tuple[Message, ...]:
    """The row's system column, unless the conversation brings its own."""
    if row.get("system") is None or any(message.role == "system" for message in messages):
        return ()
    system = _text(row["system"], "system")
    return (Message("system", system),) if system.strip() else ()


def _pair(row: Mapping[str, Any], prompt_key: str, response_key: str) -> tuple[Message, ...]:
    if response_key not in row or prompt_key not in row:
        missing = prompt_key if prompt_key not in row else response_key
        raise BadRow("unknown-shape", f"no {missing}; {way_out(row)}")
    prompt, response = row[prompt_key], row[response_key]
    if isinstance(prompt, list | tuple):
        # these answers were given before: context, unless a message says it is trained
        asked = [_context(message) for message in turns(prompt, prompt_key)]
    else:
        parts = [_text(prompt if prompt is not None else "", prompt_key)]
        parts += [
            _text(row[key], key)
            for key in CONTEXTS
            if key not in (prompt_key, response_key) and row.get(key) is not None
        ]
        asked = [Message("user", "\n".join(part for part in parts if part))]
    if isinstance(response, list | tuple):
        answered = turns(response, response_key)
    else:
        answered = [Message("assistant", _text(response if response is not None else "", response_key))]
    messages = [*_history(row.get("history")), *asked, *answered]
    return (*_system(row, messages), *messages)


def _context(message: Message) -> Message:
    if message.role != "assistant" or message.weight is not None:
        return message
    return Message(message.role, message.content, 0.0, message.tool_calls, message.reasoning)


def _history(value: Any) -> list[Message]:
    if value is None or value == "":
        return []
    pairs = value if isinstance(value, list | tuple) else None
    if pairs is None or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise BadRow("non-string-content", "history is not a list of [prompt, answer] pairs")
    roles = ("user", "assistant")
    return [Message(role, _text(said, "history")) for pair in pairs for role, said in zip(roles, pair, strict=True)]


def _checked(messages: tuple[Message, ...]) -> str:
    """The assistant's words; BadRow where it says nothing."""
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        raise BadRow("no-response", "no message of the assistant, so there is nothing to learn")
    for message in answers:
        if not (message.content.strip() or message.tool_calls or message.reasoning or message.weight == 0):
            raise BadRow(
                "empty-answer", "an answer of the assistant is empty; remove the row or give the turn weight 0"
            )
    return "\n".join(message.content for message in answers)


def _label(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, int):
            return str(value)
    return None


def _refuse_surrogates(record: Record) -> None:
    """Half a surrogate pair is a str that no tokenizer, file or terminal can encode."""
    texts = [record.text or "", record.task or "", record.language or "", record.source or ""]
    for message in record.messages or ():
        texts += (message.content, message.reasoning or "")
        texts += [json.dumps(call, ensure_ascii=False, default=str) for call in message.tool_calls]
    texts += [json.dumps(tool, ensure_ascii=False, default=str) for tool in record.tools or ()]
    for text in texts:
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                code = f"U+{ord(text[error.start]):04X}"
                raise BadRow(
                    "lone-surrogate", f"a text holds {code} alone, half a character; repair the escape"
                ) from None
