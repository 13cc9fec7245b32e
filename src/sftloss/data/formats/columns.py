"""The columns formats are known by, and how a user's own column names are brought under them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sftloss.data.formats.weights import ROW_WEIGHTS
from sftloss.data.reasons import BadRow, excerpt
from sftloss.errors import ConfigError

CHATS = ("messages", "conversations", "conversation")
PROMPTS = ("instruction", "prompt", "question", "query", "problem", "input")
RESPONSES = ("completion", "response", "output", "solution", "answer")
CONTEXTS = ("input", "context")  # what the instruction is about: appended to it
PAIRS = {f"{prompt}/{response}": (prompt, response) for prompt in PROMPTS for response in RESPONSES}
PAIRS["alpaca"] = PAIRS.pop("instruction/output")
PAIR_NAMES = {pair: name for name, pair in PAIRS.items()}
NAMED = ("messages", "sharegpt", "alpaca", "text", "tokens")
FORMATS = (*NAMED, *sorted(set(PAIRS) - {"alpaca"}))
"""Every name `detect_format` can give and `read_records(format=...)` takes."""

_PAYLOADS = ("messages", "prompt", "response", "input", "text", "input_ids", "labels")
_METADATA = ("system", "history", "tools", "task", "language", "source", "weight")
_REQUIRED = {"messages", "prompt", "response", "text", "input_ids", "labels", "weight"}
COLUMNS = (*_PAYLOADS, *_METADATA)
"""What a column of the user's data can be named to be: the keys of `columns`."""


@dataclass(frozen=True)
class Shape:
    """How rows are to be understood: a format by name, columns by name; both empty means: look at each row."""

    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            meant = _meant(self.format, FORMATS)
            known = "" if meant else f"; formats are {', '.join(NAMED)}, or two columns as 'prompt/response'"
            raise ConfigError(f"read_records: no format {excerpt(self.format, 40)}{meant or known + '.'}")
        for role, column in self.columns.items():
            if role not in COLUMNS:
                meant = _meant(role, COLUMNS)
                known = "" if meant else f"; it says which column is the {', '.join(COLUMNS)}."
                raise ConfigError(f"read_records: columns cannot name {excerpt(role, 40)}{meant or known}")
            if not isinstance(column, str) or not column:
                raise ConfigError(f"read_records: columns: {role} must be the name of a column, got {column!r}.")


def _meant(name: object, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """The row under our names, without the columns that could be mistaken for the named ones."""
    for role in _REQUIRED & columns.keys():
        if columns[role] not in row:
            missing = excerpt(columns[role], 40)
            raise BadRow("unknown-shape", f"no column {missing}, named as the {role}; {way_out(row)}")
    rivals = _rivals(columns)
    kept = {name: value for name, value in row.items() if name not in rivals}
    kept.update((role, row[column]) for role, column in columns.items() if column in row)
    return kept


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


def way_out(row: Mapping[str, Any]) -> str:
    if not row:
        return "the row is empty"
    names = excerpt(", ".join(map(str, row)), 60)
    if "chosen" in row:
        return f"a preference row with the columns {names}; name the answer to train: columns response=chosen"
    return f"its columns are {names}; say which is which: columns prompt=...,response=..."
