"""JSON lines and JSON arrays as raw rows, read strictly: what Python's reader would accept beyond JSON is a fault."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sftloss.data.examples import Origin
from sftloss.data.reasons import BadRow, excerpt
from sftloss.errors import DataError

LINE_BYTES = 32 * 2**20
"""Longest line of a file of JSON lines."""

JsonRow = tuple[Origin, "dict[str, Any] | BadRow"]

_BOM = b"\xef\xbb\xbf"
_LIST_KEYS = ("data", "rows", "train", "examples", "instances", "items")
_OPENS_ARRAY = re.compile(rb"\[\s*(\{|\Z)")
_SPACE = re.compile(r"[ \t\r\n]*")
_CUT_NUMBER = re.compile(r"[-+.eE]{1,2}")
_CUT_ESCAPE = re.compile(r"\\?u?[0-9a-fA-F]{0,4}")
_CUT_OFF = BadRow("truncated-row", "the last line ends in the middle of a row; the file was cut off")
_SKIPPED_AT_ONCE = 2**20


class _Strict:
    """A JSON decoder that remembers the first fault of a value and goes on, so that an array can be read past it."""

    def __init__(self) -> None:
        self.fault: BadRow | None = None
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float
        )

    def value(self, text: str, start: int) -> tuple[Any, int]:
        """The value that begins at `start`, and where it ends; ValueError or RecursionError where it is not JSON."""
        self.fault = None
        return self._decoder.raw_decode(text, start)

    def row(self, value: Any) -> dict[str, Any] | BadRow:
        """The value just read, if it can be a row."""
        if self.fault is not None:
            return self.fault
        if not isinstance(value, dict):
            return BadRow("not-an-object", f"the row is {excerpt(value, 40)}; write one object a row")
        return value

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        unique = dict(pairs)
        if len(unique) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            self._remember("duplicate-key", f"the key {excerpt(twice, 40)} appears twice; keep one")
        return unique

    def _constant(self, name: str) -> float:
        self._remember("non-finite-number", f"{name} is not JSON; write null or a number")
        return 0.0

    def _float(self, digits: str) -> float:
        value = float(digits)
        if value in (float("inf"), float("-inf")):
            detail = f"{excerpt(digits, 40)} is too large for a float; write null or a number"
            self._remember("non-finite-number", detail)
        return value

    def _remember(self, reason: str, detail: str) -> None:
        self.fault = self.fault or BadRow(reason, detail)


def read_json(path: Path) -> Iterator[JsonRow]:
    """Rows of a `.json` or `.jsonl` file (`.gz` too), whichever of the two it really holds.

    JSON lines are read one line at a time: a bad line is a BadRow and reading goes on. An array, or one object with
    a list under data, rows, train, ..., is loaded whole, since it has no place to go on from once it is malformed.

    Raises:
        DataError: If the file cannot be read, is malformed as a whole, or holds no row.
    """
    try:
        with _opened(path) as file:
            is_lines = _is_lines(file, path)
        yield from _lines(path) if is_lines else _whole(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the compressed file is cut off or damaged ({error}); make it again.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from None


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _is_lines(file: IO[bytes], path: Path) -> bool:
    """Whether the file is JSON lines: by its first line, and by its name where that leaves it open."""
    first = file.readline(LINE_BYTES + 1)
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: the file is UTF-16; save it as UTF-8.")
    first = first.removeprefix(_BOM).strip()
    while not first:
        more = file.readline(LINE_BYTES + 1)
        if not more:
            raise DataError(f"{path}: the file is empty.")
        first = more.strip()
    if path.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson")):
        if not _OPENS_ARRAY.match(first):
            return True
        value = _parsed(first)  # an array may stand in a file that is named after lines: it goes on, or is one line
        return value is not None and not (value and all(isinstance(item, dict) for item in value))
    if first.startswith(b"[") or not isinstance(_parsed(first), dict):
        return False
    return any(line.strip() for line in iter(lambda: file.readline(_SKIPPED_AT_ONCE), b""))


def _parsed(line: bytes) -> Any:
    """The JSON value of a line, None where it is not one."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _lines(path: Path) -> Iterator[JsonRow]:
    strict, row, number = _Strict(), 0, 0
    with _opened(path) as file:
        while raw := file.readline(LINE_BYTES + 1):
            number += 1
            origin = Origin(str(path), row, number)
            if len(raw) > LINE_BYTES and not raw.endswith(b"\n"):
                del raw  # the line may be gigabytes: free its beginning before skipping the rest
                while (part := file.readline(_SKIPPED_AT_ONCE)) and not part.endswith(b"\n"):
                    pass
                detail = f"the line is longer than {LINE_BYTES / 2**20:g} MiB; one row is one line"
                yield origin, BadRow("line-too-long", detail)
                row += 1
                continue
            text = raw.removeprefix(_BOM) if number == 1 else raw
            if text.strip(b" \t\r\n"):
                yield origin, _line(strict, text)
                row += 1


def _line(strict: _Strict, raw: bytes) -> dict[str, Any] | BadRow:
    is_last = not raw.endswith(b"\n")
    try:
        text = raw.decode().strip(" \t\r\n")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and is_last:
            return _CUT_OFF
        return BadRow("not-utf8", f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8")
    try:
        value, end = strict.value(text, 0)
    except (ValueError, RecursionError) as error:
        if is_last and _ran_out(error, text):
            return _CUT_OFF
        where = f"column {error.colno}: " if isinstance(error, json.JSONDecodeError) else ""
        return BadRow("not-json", f"{where}{_why(error)}")
    if end != len(text):
        return BadRow("not-json", f"column {end + 1}: more after the end of the row; write one row a line")
    return strict.row(value)


def _ran_out(error: Exception, text: str) -> bool:
    """Whether the text was a row as far as it goes."""
    if not isinstance(error, json.JSONDecodeError) or not text.startswith("{"):
        return False
    rest = text[error.pos :]
    if "escape" in error.msg:
        return bool(_CUT_ESCAPE.fullmatch(rest))
    is_cut_word = any(word.startswith(rest) for word in ("true", "false", "null"))  # also where nothing is left
    return error.msg.startswith("Unterminated string") or is_cut_word or bool(_CUT_NUMBER.fullmatch(rest))


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg[0].lower()}{error.msg[1:]}"
    return "brackets nested too deep" if isinstance(error, RecursionError) else "a number has too many digits"


def _whole(path: Path) -> Iterator[JsonRow]:
    """Rows of a file that is one JSON value."""
    with _opened(path) as file:
        raw = file.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8; save the file as UTF-8.") from None
    del raw
    start = _skip_space(text, 0)
    yield from _elements(path, text, start) if text.startswith("[", start) else _object(path, text, start)


def _object(path: Path, text: str, start: int) -> Iterator[JsonRow]:
    """One object: rows under a known key, or itself the only row."""
    strict = _Strict()
    try:
        value, end = strict.value(text, start)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, text, error, start) from None
    if _skip_space(text, end) != len(text):
        raise _malformed(path, text, json.JSONDecodeError("More after the end of the object", text, end), end)
    key = next((key for key in _LIST_KEYS if isinstance(value, dict) and isinstance(value.get(key), list)), None)
    if key is None:
        yield Origin(str(path), 0), strict.row(value)
        return
    if strict.fault is not None:
        raise DataError(f"{path}: {strict.fault.detail}.")
    if not value[key]:
        raise DataError(f"{path}: the list under {key!r} is empty.")
    for row, item in enumerate(value[key]):
        yield Origin(str(path), row), strict.row(item)


def _elements(path: Path, text: str, start: int) -> Iterator[JsonRow]:
    """The array element by element, each with its line, so that only one element is alive."""
    strict, row, line, counted = _Strict(), 0, 1, 0
    at = _skip_space(text, start + 1)
    has_lines = "\n" in text[at : text.rfind("]")]  # all on one line, as json.dump writes: the row's number must do
    if text.startswith("]", at):
        raise DataError(f"{path}: the array is empty.")
    while True:
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, end = strict.value(text, at)
        except (ValueError, RecursionError) as error:
            raise _malformed(path, text, error, at, row) from None
        yield Origin(str(path), row, line if has_lines else None), strict.row(value)
        row += 1
        at = _skip_space(text, end)
        closing, at = text[at : at + 1], _skip_space(text, at + 1)
        if closing == "]":
            if at < len(text):
                raise _malformed(path, text, json.JSONDecodeError("More after the end of the array", text, at), at)
            return
        if closing != ",":
            gap = json.JSONDecodeError("Expecting ',' or ']' delimiter", text, _skip_space(text, end))
            raise _malformed(path, text, gap, end, row - 1)


def _skip_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return match.end() if match else start


def _malformed(path: Path, text: str, error: Exception, at: int, row: int | None = None) -> DataError:
    place = error if isinstance(error, json.JSONDecodeError) else json.JSONDecodeError("", text, at)
    where = f"row {row}: " if row is not None else ""
    malformed = "malformed JSON, " if error is place else ""
    return DataError(f"{path}:{place.lineno}:{place.colno}: {where}{malformed}{_why(error)}.")
