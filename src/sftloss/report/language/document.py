"""Which texts of a document are ours, and a document with all of them in another language."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from sftloss.document import Chart, Column, Command, Document, Series, Table
from sftloss.report.language.catalogue import translated

# codes, keys and what comes from the data: never translated
_CODES = {
    "Document": {"schema_version", "language"},
    "Finding": {"id", "severity", "unit", "rows"},
    "Section": {"id"},
    "Column": {"key", "kind"},
    "Table": {"id"},
    "Chart": {"id", "kind", "scale_x", "scale_y", "format_x", "format_y"},
    "TokenStrip": {"tokens", "roles", "values"},
    "Interval": {"low", "high", "level"},
}
# columns that hold data; columns and axes of groups, whose names are the data's but for ours
_DATA = re.compile(r"answer|arm\d+|first|origin|prompt|reference|rows|text")
_GROUPS = re.compile(r"task|language|source|role")
# facts whose values are the user's, but for the descriptions of our own models and data
_OF_USER = {"run", "model", "data", "template", "command"}
_OURS = re.compile(
    r".*, with(out)? generation tags|plain headings, it has none|Llama from scratch, \d.*|generated tasks.*|"
    r"sftloss demo model|SmolLM2-135M-Instruct \(smollm2; .*"
)


@dataclass(frozen=True)
class Text:
    """A text of a document and its place, as ``Section.lead`` or, of a column, ``Cell.verdict``."""

    place: str
    text: str


def in_language(document: Document, language: str) -> Document:
    """The document with every text that has an entry in the language; codes, numbers, names and data stay.

    Example:
        >>> in_language(Document("Tiny", (), (), ()), "en").language
        'en'
    """
    if language == document.language or language == "en":
        return document
    changed: Document = _mapped(document, lambda text: translated(text.text, language))
    return replace(changed, language=language)


def texts_of(document: Document) -> list[Text]:
    """Every text of the document that a translation would read, in its order."""
    texts: list[Text] = []

    def keep(text: Text) -> str:
        texts.append(text)
        return text.text

    _mapped(document, keep)
    return texts


def _mapped(value: Any, change: Callable[[Text], str], place: str = "") -> Any:
    """A value of a document with each of its texts changed."""
    if isinstance(value, str):
        return change(Text(place, value))
    if isinstance(value, tuple):
        return tuple(_mapped(part, change, place) for part in value)
    if isinstance(value, Command):
        return replace(value, lead=change(Text(place, value.lead))) if value.lead else value
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changed: dict[str, Any] = {}
    if isinstance(value, Table):
        changed["rows"] = tuple(_row(row, value.columns, change) for row in value.rows)
        if value.id.startswith("differences-"):  # two of its columns are called like the runs
            names = {"first", "second"}
            changed["columns"] = tuple(one if one.key in names else _mapped(one, change) for one in value.columns)
    if isinstance(value, Chart) and _GROUPS.fullmatch(value.x_label):
        changed["series"] = tuple(_series(one, change) for one in value.series)
    if isinstance(value, Document):
        for name in ("facts", "provenance"):
            changed[name] = tuple(_fact(label, text, change) for label, text in getattr(value, name))
    kind = type(value).__name__
    for name in {field.name for field in fields(value)} - _CODES.get(kind, set()) - {*changed}:
        changed[name] = _mapped(getattr(value, name), change, f"{kind}.{name}")
    return replace(value, **changed)


def _fact(label: str, value: str, change: Callable[[Text], str]) -> tuple[str, str]:
    """A fact with its label changed, and its value where that is ours."""
    is_data = label in _OF_USER and not _OURS.fullmatch(value)
    return change(Text("Document.facts", label)), value if is_data else change(Text("Document.facts", value))


def _series(series: Series, change: Callable[[Text], str]) -> Series:
    """A series whose places are groups of the data."""
    changed: Series = _mapped(replace(series, x=()), change)
    return replace(changed, x=tuple(_named(x, change) for x in series.x))


def _row(row: tuple[Any, ...], columns: tuple[Column, ...], change: Callable[[Text], str]) -> tuple[Any, ...]:
    """The cells of a row, those of data as they are."""
    cells = []
    for cell, column in zip(row, columns, strict=True):
        if _GROUPS.fullmatch(column.key) or _GROUPS.fullmatch(column.label):
            cells.append(_named(cell, change))
        else:
            cells.append(cell if _DATA.fullmatch(column.key) else _mapped(cell, change, f"Cell.{column.key}"))
    return tuple(cells)


def _named(value: Any, change: Callable[[Text], str]) -> Any:
    """The name of a group, alone or before a count: ours are "(none)" and "no letters", any other is the data's."""
    name = re.sub(r" \([\d,]+\)$", "", value) if isinstance(value, str) else ""
    is_ours = " " in name or name.startswith("(")
    return change(Text("Group", value)) if is_ours else value
