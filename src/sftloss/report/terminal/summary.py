"""What of a long analysis a terminal shows: answers and a few compact tables. The page and the JSON have the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sftloss.document import Document, Section, Table

_SECTIONS = ("tokens", "tilt", "positions", "influential", "method")
_TABLES = ("length-numbers", "gradient-factor")


def summary(document: Document) -> tuple[tuple[Section, ...], tuple[str, ...]]:
    """The sections to show, without their long tables, and the titles of those left out; short documents are whole."""
    if not any(section.id == "comparison" for section in document.sections):
        return document.sections, ()
    shown = tuple(_without_long_tables(s) for s in document.sections if s.id not in _SECTIONS)
    return shown, tuple(s.title for s in document.sections if s.id in _SECTIONS)


def _without_long_tables(section: Section) -> Section:
    return replace(section, tables=tuple(t for t in section.tables if t.id not in _TABLES))


def rules(table: Table) -> Iterator[tuple[str, str]]:
    """Each rule of advice as a sentence, and how to follow it: a terminal is too narrow for its table."""
    keys = [column.key for column in table.columns]
    for row in table.rows:
        cell = {key: "" if value is None else str(value) for key, value in zip(keys, row, strict=True)}
        yield f"For {cell['premise']}: {cell['advice']}; {cell['because']}.", cell["fix"]
