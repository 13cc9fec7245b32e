"""Files and folders that are there whole or not at all, whatever interrupts the writing."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Write `value` under another name, flush it to disk, then rename it onto `path`."""
    _replace(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_lines(path: Path, values: list[Any]) -> None:
    """One JSON object a line, the whole file at once."""
    _replace(path, "".join(map(line, values)))


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


def sync_folder(folder: Path) -> None:
    """Flush every file in the folder, and the folder, to disk."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def rename_folder(source: Path, target: Path) -> None:
    """Put a whole folder in place at once."""
    sync_folder(source)
    os.replace(source, target)
    _sync(target.parent)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some file systems know no fsync of a folder; the rename is atomic all the same
        if path.is_file():
            raise
    finally:
        os.close(handle)
