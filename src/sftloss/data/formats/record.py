"""A raw row to a record: columns under their known names, the format's content, and what all formats share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from sftloss.data.examples import Message, Origin, Record
from sftloss.data.formats.format import FORMATS, Content, as_text, detect_format, format_kinds, load_plug_ins, way_out
from sftloss.data.formats.language import script_of
from sftloss.data.formats.messages import CHATS
from sftloss.data.formats.pairs import CONTEXTS, PROMPTS, RESPONSES, is_preference
from sftloss.data.formats.tools import tools
from sftloss.data.formats.weights import NEGATIVE, ROW_WEIGHTS, row_weight, signed
from sftloss.data.reasons import BadRow, excerpt
from sftloss.errors import ConfigError, mention
from sftloss.registry import closest

_PAYLOADS = ("messages", "prompt", "response", "input", "text", "input_ids", "labels")
_METADATA = ("system", "history", "tools", "task", "language", "source", "weight")
_REQUIRED = {"messages", "prompt", "response", "text", "input_ids", "labels", "weight"}
COLUMN_ROLES = (*_PAYLOADS, *_METADATA)
"""What a column of the data can be named to be: the keys of `columns`."""

_TASKS, _LANGUAGES = ("task", "category", "type"), ("language", "lang")
_SOURCES = ("source", "dataset", "channel", "subset")
_MEDIA = ("images", "image", "videos", "video", "audios", "audio")


@dataclass(frozen=True)
class Shape:
    """How rows are to be understood: a format by name, columns by name; both empty means: look at each row."""

    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format is not None:
            load_plug_ins()
            _check_name(self.format, FORMATS, "format", f"formats are {', '.join(format_kinds())}")
        for role, column in self.columns.items():
            _check_name(role, COLUMN_ROLES, "columns", f"a column can be the {', '.join(COLUMN_ROLES)}")
            if not isinstance(column, str) or not column:
                raise ConfigError(f"{role} must be the name of a column, got {column!r}", option="columns")


def _check_name(name: str, known: Iterable[str], option: str, names: str) -> None:
    if name not in known:
        near = closest(name, known)
        raise ConfigError(f"there is no {excerpt(name, 40)}{near}", option=option, cure="" if near else names)


def renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """The row under the names that formats know, without the columns that could be mistaken for the named ones."""
    for role in _REQUIRED & columns.keys():
        if value_at(row, columns[role]) is None and columns[role] not in row:
            missing = excerpt(columns[role], 40)
            raise BadRow("unknown-shape", f"no column {missing}, named as the {role}; {way_out(row)}")
    rivals = _rivals(columns)
    kept = {name: value for name, value in row.items() if name not in rivals}
    values = ((role, row[column] if column in row else value_at(row, column)) for role, column in columns.items())
    kept.update((role, value) for role, value in values if value is not None or columns[role] in row)
    return kept


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """The value at a path such as ``instances[0].output``, None where the row has none."""
    value: Any = row
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        if index and isinstance(value, list | tuple) and int(index) < len(value):
            value = value[int(index)]
        elif key and isinstance(value, Mapping):
            value = value.get(key)
        else:
            return None
    return value


def _rivals(columns: Mapping[str, str]) -> set[str]:
    rivals = set(ROW_WEIGHTS) if "weight" in columns else set()
    if columns.keys() <= {*_METADATA, "input"}:
        return rivals
    rivals |= {*CHATS, "text"}
    if columns.keys().isdisjoint({"input_ids", "labels"}):
        rivals.add("input_ids")
    is_pair = not columns.keys().isdisjoint({"prompt", "response"})
    if "prompt" in columns or not is_pair:
        rivals |= set(PROMPTS)
    if "response" in columns or not is_pair:
        rivals |= set(RESPONSES)
    # an instruction keeps its `input`, unless the user says that this column is something else
    return (rivals - set(CONTEXTS)) | set(columns.values())


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
    for media in _MEDIA:
        if _is_filled(row.get(media)):
            raise BadRow("unsupported-content", f"the row has {media}; only text is read, remove such rows")
    _refuse_bad_half(row, shape)
    name = shape.format or detect_format(row)
    messages, text, tokens = _payloads(FORMATS[name].convert(row), row)
    answer = text if messages is None else "\n".join(m.content for m in messages if m.role == "assistant")
    record = Record(
        origin=origin,
        messages=messages,
        text=text,
        tokens=tokens,
        tools=tools(row.get("tools", row.get("functions"))) if messages else None,
        task=_label(row, _TASKS, shape),
        language=_label(row, _LANGUAGES, shape) or (script_of(answer) if answer else None),
        source=_label(row, _SOURCES, shape) or source,
        weight=_weight(row, messages, is_tokens=tokens is not None),
        template_kwargs=_kwargs(row.get("chat_template_kwargs")) if messages else {},
    )
    _refuse_surrogates(record)
    return record, name


def _weight(row: Mapping[str, Any], messages: Sequence[Message] | None, *, is_tokens: bool) -> float:
    """The row's weight, below zero where the row is marked as wrong."""
    weight, mark = row_weight(row, is_tokens=is_tokens), row.get(NEGATIVE)
    if is_tokens or not mark:
        return weight
    if any((message.weight or 0) < 0 for message in messages or ()):
        raise BadRow("bad-weight", f"both the row and a message of it have {NEGATIVE}; keep one of them")
    return signed(weight, mark, "the row") or 0.0


def _refuse_bad_half(row: Mapping[str, Any], shape: Shape) -> None:
    """A preference row has a half that must not be trained; which one, the format or a column has to say."""
    if shape.format != "preference" and "response" not in shape.columns and is_preference(row):
        cure = f"{mention('format', 'preference')} trains the chosen answer"
        raise BadRow("preference-row", f"the row has a chosen and a rejected answer; {cure}")
    if row.get("label") in (False, "false") and isinstance(row.get("label"), bool | str):
        raise BadRow("bad-answer", "its label is false: the data calls the answer a bad one")


def _is_filled(value: Any) -> bool:
    return value is not None and value is not False and (len(value) > 0 if hasattr(value, "__len__") else True)


def _payloads(
    content: Content, row: Mapping[str, Any]
) -> tuple[tuple[Message, ...] | None, str | None, Mapping[str, Any] | None]:
    """Messages, text or tokens; the others are None."""
    if isinstance(content, str):
        return None, content, None
    if isinstance(content, Mapping):
        return None, None, content
    messages = (*_system(row, content), *content)
    _check_answers(messages)
    return messages, None, None


def _system(row: Mapping[str, Any], messages: Sequence[Message]) -> tuple[Message, ...]:
    """The row's system column, unless the conversation brings its own."""
    if row.get("system") is None or any(message.role == "system" for message in messages):
        return ()
    system = as_text(row["system"], "system")
    return (Message("system", system),) if system.strip() else ()


def _check_answers(messages: Sequence[Message]) -> None:
    """BadRow where the assistant says nothing."""
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        raise BadRow("no-response", "there is no message of the assistant; give the row an answer, or remove it")
    if not all(one.content.strip() or one.tool_calls or one.reasoning or one.weight == 0 for one in answers):
        raise BadRow("empty-answer", "an answer of the assistant is empty; remove the row or give the turn weight 0")


def _label(row: Mapping[str, Any], names: tuple[str, ...], shape: Shape) -> str | None:
    """The first of these columns that holds a text or a number; BadRow where one that the user named holds neither."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, Real) and str(value) != "nan":
            return str(value)
        if name in shape.columns and value and not isinstance(value, str | Real):
            raise BadRow("non-string-content", f"the {name} is {excerpt(value, 40)}; write a text or a number")
    return None


def _kwargs(value: Any) -> dict[str, Any]:
    """Variables for the chat template: an object, or its JSON text; those that are null are left out."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "null")
        except (ValueError, RecursionError):
            value = excerpt(value, 40)
    if not isinstance(value, Mapping | None):
        raise BadRow("unknown-shape", f"chat_template_kwargs is {excerpt(value, 40)}; write an object")
    return {str(name): inner for name, inner in (value or {}).items() if inner is not None}


def _refuse_surrogates(record: Record) -> None:
    """Half a surrogate pair is a str that no tokenizer, file or terminal can encode."""
    messages = [(one.content, one.reasoning, one.tool_calls, one.extra) for one in record.messages or ()]
    names = [record.task, record.language, record.source, record.template_kwargs]
    texts = [record.text, *names, messages, record.tools]
    text = json.dumps(texts, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        raise BadRow("lone-surrogate", f"a text holds {code} alone, half a character; repair the escape") from None
