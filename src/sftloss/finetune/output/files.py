"""JSON files of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sftloss.files import write_atomic


def write_json(path: Path, value: Any) -> None:
    """Write `value` as one JSON file."""
    write_atomic(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_lines(path: Path, values: list[Any]) -> None:
    """Write one JSON object per line."""
    write_atomic(path, "".join(map(line, values)))


def line(value: Any) -> str:
    """One line of a JSON lines file."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """The value as JSON knows it: what is not a finite number is null."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
