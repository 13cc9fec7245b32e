"""What a format is, and all formats, in the order in which a row is compared with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sftloss.data.examples import Message
from sftloss.data.reasons import BadRow, excerpt
from sftloss.errors import ConfigError, mention
from sftloss.registry import plug_ins

RawRow = Mapping[str, Any]
Content = Sequence[Message] | str | Mapping[str, list[Any]]
"""What a row holds: a conversation, a text that is trained as it is, or token columns (`input_ids` and, where the row
has them, `labels`, `weights`, `roles`)."""


@dataclass(frozen=True)
class Format:
    """One way to write a row.

    Attributes:
        name: As in ``read_records(format=...)``, in lists and in counts.
        detect: Whether a row is in this format. Columns that are null are removed from the row first; if no format is
            found, the whole row is tried, for a null answer is still an answer column.
        convert: From a row to what it holds. It may raise `BadRow`; columns that all formats share (system, tools,
            task, language, source, weight) are read for it.
        columns: The columns it reads, one phrase for lists.
        example: A row in this format.
        order: Formats with a smaller number are asked first; the more a row says about who speaks, the smaller.
        kind: The name of one of several formats that are listed as one.
    """

    name: str
    detect: Callable[[RawRow], bool]
    convert: Callable[[RawRow], Content]
    columns: str = ""
    example: RawRow = field(default_factory=dict)
    order: int = 0
    kind: str = ""


FORMATS: dict[str, Format] = {}
"""Every format by name: this room's, registered ones, and after the first reading those of installed packages."""


def register_format(format: Format) -> Format:
    """Add a format, for `read_records` and every command. It is asked before this room's own unless it sets `order`.

    An installed package adds one without a call, by an entry point in the group ``sftloss.formats`` that names a
    `Format`.

    Raises:
        ConfigError: If the name is taken.

    Example:
        >>> def convert(row):
        ...     return [Message("user", row["ask"]), Message("assistant", row["tell"])]
        >>> _ = register_format(Format("ask/tell", lambda row: "ask" in row and "tell" in row, convert))
        >>> detect_format({"ask": "2 + 2?", "tell": "4"})
        'ask/tell'
        >>> _ = FORMATS.pop("ask/tell")
    """
    if format.name in FORMATS:
        raise ConfigError(f"there is already a format {format.name!r}; choose another name.")
    FORMATS[format.name] = format
    in_order = sorted(FORMATS.values(), key=lambda one: one.order)
    FORMATS.clear()
    FORMATS.update((one.name, one) for one in in_order)
    return format


@cache
def load_plug_ins() -> None:
    """Register the formats of installed packages, once.

    Raises:
        ConfigError: If one of them cannot be imported or is no `Format`.
    """
    for name, entry in plug_ins("sftloss.formats").items():
        try:
            format = entry.load()
        except Exception as error:  # whatever the module's own code raises
            raise ConfigError(f"the plug-in format {name!r} cannot be imported: {error}.") from error
        if not isinstance(format, Format):
            raise ConfigError(f"the plug-in format {name!r} is no sftloss.data.Format: {excerpt(format, 40)}.")
        register_format(format)


def detect_format(row: RawRow) -> str:
    """The name of the row's format, one of `FORMATS`: the first that recognizes it.

    Token ids win over messages, messages over pairs of columns, pairs over `text`.

    Raises:
        BadRow: ``unknown-shape``, naming the row's columns and the nearest way out.

    Example:
        >>> detect_format({"question": "2 + 2?", "answer": "4"})
        'question/answer'
    """
    load_plug_ins()
    without_nulls = {key: value for key, value in row.items() if value is not None}
    for candidate in (without_nulls, row):
        for name, format in FORMATS.items():
            if format.detect(candidate):
                return name
    raise BadRow("unknown-shape", way_out(row))


def format_kinds() -> tuple[str, ...]:
    """Names of the formats for help and messages, formats of one kind as one."""
    kinds = dict.fromkeys(format.kind or format.name for format in FORMATS.values())
    return tuple(kinds)


def as_text(value: Any, name: str) -> str:
    """The value, if it is a text; BadRow where it is not."""
    if not isinstance(value, str):
        raise BadRow("non-string-content", f"{name} is {excerpt(value, 40)}, not a text")
    return value


def required(row: RawRow, name: str) -> Any:
    """The value of a column; BadRow where the row has none."""
    if name in row and row[name] is None:
        raise BadRow("empty-answer", f"{name} is empty; remove the row")
    if name not in row:
        raise BadRow("unknown-shape", f"no {name}; {way_out(row)}")
    return row[name]


def way_out(row: RawRow) -> str:
    """The columns of a row in no known format, and what to do."""
    if not row:
        return "the row is empty; give it columns"
    names = excerpt(", ".join(map(str, row)), 60)
    if "chosen" in row:
        return f"a preference row with the columns {names}; train its good half: {mention('format', 'preference')}"
    return f"its columns are {names}; say with {mention('columns', 'prompt=...,response=...')} which is which"
