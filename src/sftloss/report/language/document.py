"""Which texts of a document are ours, and a document with all of them in another language."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from sftloss.document import Chart, Column, Command, Document, Table
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
_NAMES = frozenset({"arm", "language", "loss", "prompt", "reference", "role", "source", "task"})
"""Columns, and axes of charts, that hold names: those without an entry are no sentences that lack one."""


@dataclass(frozen=True)
class Text:
    """A text of a document, its place (``Section.lead``), and whether it may be a name or data."""

    place: str
    text: str
    is_name: bool = False


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


def _mapped(value: Any, change: Callable[[Text], str], place: str = "", *, is_name: bool = False) -> Any:
    """A value of a document with each of its texts changed."""
    if isinstance(value, Command):
        return replace(value, lead=change(Text(place, value.lead))) if value.lead else value
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value).__name__
        codes = _CODES.get(kind, set())
        parts = {f.name: getattr(value, f.name) for f in fields(value) if f.name not in codes}
        axis = isinstance(value, Chart) and value.x_label in _NAMES
        changed = {
            name: _mapped(part, change, f"{kind}.{name}", is_name=is_name or axis or name in ("facts", "provenance"))
            for name, part in parts.items()
            if not (isinstance(value, Table) and name == "rows")
        }
        if isinstance(value, Table):
            changed["rows"] = tuple(_row(row, value.columns, change) for row in value.rows)
        return replace(value, **changed)
    if isinstance(value, tuple):
        return tuple(_mapped(part, change, place, is_name=is_name) for part in value)
    return change(Text(place, value, is_name)) if isinstance(value, str) else value


def _row(row: tuple[Any, ...], columns: tuple[Column, ...], change: Callable[[Text], str]) -> tuple[Any, ...]:
    keys = [column.key for column in columns]
    return tuple(
        _mapped(cell, change, f"Cell.{key}", is_name=key in _NAMES) for key, cell in zip(keys, row, strict=True)
    )
