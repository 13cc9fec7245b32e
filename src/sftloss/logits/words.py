"""The record that a demonstration returns, and its text in English and Chinese (``texts.json``)."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from sftloss.document import LANGUAGES

TableRow = dict[str, Any]


class Statement(NamedTuple):
    """A sentence of ``texts.json``, by its key, and the values in it."""

    key: str
    values: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Demonstration:
    """What a demonstration measured: tables of plain records, and statements about them.

    Attributes:
        name: Name of the function that made it; also the key of its title.
        tables: Rows of each table by its key; a row maps a column's key to a number or a word.
        statements: What the tables show.
    """

    name: str
    tables: Mapping[str, Sequence[TableRow]]
    statements: Sequence[Statement] = field(default=())

    def text(self, lang: str = "en") -> str:
        """Return title, aligned tables and statements in English (``"en"``) or Chinese (``"zh"``)."""
        parts = [f"=== {self.name}: {text_of(self.name, lang)} ==="]
        for key, rows in self.tables.items():
            parts.append("\n".join([text_of(key, lang), *_aligned(rows, lang)]))
        parts.append("\n".join(_sentence(statement, lang) for statement in self.statements))
        return "\n\n".join(parts) + "\n"

    def __str__(self) -> str:
        return self.text()


def shown(result: Demonstration, verbose: bool, lang: str) -> Demonstration:
    """Print the demonstration if ``verbose``, and return it."""
    if verbose:
        print(result.text(lang))
    return result


def text_of(key: Any, lang: str) -> str:
    """Return the text of a key in a language; a key that ``texts.json`` does not have is its own text."""
    if lang not in LANGUAGES:
        raise ValueError(f"lang must be one of {', '.join(LANGUAGES)}, got {lang!r}.")
    if key is None:
        return "-"
    return _texts()[key][lang] if key in _texts() else str(key)


@cache
def _texts() -> dict[str, dict[str, str]]:
    texts: dict[str, dict[str, str]] = json.loads(
        files("sftloss.logits").joinpath("texts.json").read_text(encoding="utf-8")
    )
    return texts


def _sentence(statement: Statement, lang: str) -> str:
    values = {
        name: text_of(value, lang) if isinstance(value, str) else value for name, value in statement.values.items()
    }
    return "- " + text_of(statement.key, lang).format(**values)


def _aligned(rows: Sequence[TableRow], lang: str) -> list[str]:
    """Lines of a table: words to the left, numbers to the right."""
    columns = []
    for key in rows[0]:
        values = [row[key] for row in rows]
        # three digits where two would show a small number as 0.01
        digits = 3 if any(isinstance(v, float) and 0 < abs(v) < 0.1 for v in values) else 2
        cells = [_number(v, digits) if isinstance(v, float) else text_of(v, lang) for v in values]
        cells = [text_of(key, lang), *cells]
        width, is_text = max(map(_width, cells)), isinstance(values[0], str)
        padding = [" " * (width - _width(cell)) for cell in cells]
        columns.append([cell + pad if is_text else pad + cell for cell, pad in zip(cells, padding, strict=True)])
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]


def _number(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus zero


def _width(text: str) -> int:
    """Columns of a terminal: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
