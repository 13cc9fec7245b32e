"""JSON lines and JSON arrays as raw rows, strictly: what Python's reader would let pass is a fault of the row."""

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

MAX_LINE_BYTES = 32 * 2**20
Row = tuple[Origin, "dict[str, Any] | BadRow"]

_BOM = b"\xef\xbb\xbf"
_LIST_KEYS = ("data", "rows", "train", "examples", "instances", "items")
_OPENS_ARRAY = re.compile(rb"\[\s*(\{|\Z)")
_SPACE = re.compile(r"[ \t\r\n]*")
_CUT_NUMBER = re.compile(r"[-+.eE]{1,2}")
_CUT_ESCAPE = re.compile(r"\\?u?[0-9a-fA-F]{0,4}")
_CUT_OFF = BadRow("truncated-row", "the last line ends in the middle of a row; the file was cut off")
_SKIPPED_AT_ONCE = 2**20


class _Strict:
    """A JSON decoder that goes on after a fault and remembers it, so that an array can be read past it."""

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
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            self._remember("duplicate-key", f"the key {excerpt(twice, 40)} appears twice; keep one")
        return found

    def _constant(self, name: str) -> float:
        self._remember("non-finite-number", f"{name} is not JSON; write null or a number")
        return 0.0

    def _float(self, digits: str) -> float:
        value = float(digits)
        if value in (float("inf"), float("-inf")):
            self._remember(
                "non-finite-number", f"{excerpt(digits, 40)} is too large for a float; write null or a number"
            )
        return value

    def _remember(self, reason: str, detail: str) -> None:
        self.fault = self.fault or BadRow(reason, detail)


def read_json(path: Path, *, line_bytes: int = MAX_LINE_BYTES) -> Iterator[Row]:
    """Rows of a `.json` or `.jsonl` file (`.gz` too), whichever of the two it really holds.

    JSON lines are read one line at a time: a bad line is a BadRow and reading goes on. An array, or one object with
    a list under data, rows, train, ..., is loaded whole, since it has no place to go on from once it is malformed.

    Raises:
        DataError: If the file cannot be read, is malformed as a whole, or holds no row.
    """
    try:
        with _opened(path) as file:
            as_lines = _is_lines(file, path, line_bytes)
        yield from _lines(path, line_bytes) if as_lines else _array(path)
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: the compressed file is cut off or damaged ({error}); make it again.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from None


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _is_lines(file: IO[bytes], path: Path, line_bytes: int) -> bool:
    """Whether the file is JSON lines: by what it begins with, and its name where that does not tell."""
    named_lines = path.name.removesuffix(".gz").endswith((".jsonl", ".ndjson"))
    first = file.readline(line_bytes + 1)
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: the file is UTF-16; save it as UTF-8.")
    first = first.removeprefix(_BOM).strip()
    while not first:
        more = file.readline(line_bytes + 1)
        if not more:
            raise DataError(f"{path}: the file is empty.")
        first = more.strip()
    if named_lines:
        return not (_OPENS_ARRAY.match(first) and _holds_array(path, first))
    if first.startswith(b"["):
        return False
    return _is_object(first) and any(line.strip() for line in iter(lambda: file.readline(_SKIPPED_AT_ONCE), b""))


def _holds_array(path: Path, first: bytes) -> bool:
    """Whether the first line opens an array that goes on, or is all of one: a row of a line file is never a list."""
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return True
    return bool(value) and all(isinstance(item, dict) for item in value)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _lines(path: Path, line_bytes: int) -> Iterator[Row]:
    strict, row, number = _Strict(), 0, 0
    with _opened(path) as file:
        while raw := file.readline(line_bytes + 1):
            number += 1
            origin = Origin(str(path), row, number)
            if len(raw) > line_bytes and not raw.endswith(b"\n"):
                del raw  # the line may be gigabytes: give its beginning back before going past it
                _skip_line(file)
                limit = f"{line_bytes / 2**20:g} MiB"
                yield origin, BadRow("line-too-long", f"the line is longer than {limit}; one row is one line")
                row += 1
                continue
            text = raw.removeprefix(_BOM) if number == 1 else raw
            if text.strip(b" \t\r\n"):
                yield origin, _line(strict, text)
                row += 1


def _skip_line(file: IO[bytes]) -> None:
    while (part := file.readline(_SKIPPED_AT_ONCE)) and not part.endswith(b"\n"):
        pass


def _line(strict: _Strict, raw: bytes) -> dict[str, Any] | BadRow:
    try:
        text = raw.decode().strip(" \t\r\n")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and not raw.endswith(b"\n"):
            return _CUT_OFF
        return BadRow("not-utf8", f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8")
    try:
        value, end = strict.value(text, 0)
    except RecursionError:
        return BadRow("not-json", "brackets nested too deep")
    except ValueError as error:
        if not raw.endswith(b"\n") and _ran_out(error, text):
            return _CUT_OFF
        return BadRow("not-json", _why(error))
    if end != len(text):
        return BadRow("not-json", f"column {end + 1}: more after the end of the row; write one row a line")
    return strict.row(value)


def _ran_out(error: ValueError, text: str) -> bool:
    """Whether the text was a row as far as it goes."""
    if not isinstance(error, json.JSONDecodeError) or not text.startswith("{"):
        return False
    rest = text[error.pos :]
    if "escape" in error.msg:
        return bool(_CUT_ESCAPE.fullmatch(rest))
    is_cut_word = any(word.startswith(rest) for word in ("true", "false", "null"))  # also where nothing is left
    return error.msg.startswith("Unterminated string") or is_cut_word or bool(_CUT_NUMBER.fullmatch(rest))


def _why(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"column {error.colno}: {error.msg[0].lower()}{error.msg[1:]}"
    return "a number has too many digits"


def _array(path: Path) -> Iterator[Row]:
    with _opened(path) as file:
        raw = file.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8; save the file as UTF-8.") from None
    del raw
    start = _skip_space(text, 0)
    if text.startswith("[", start):
        yield from _elements(path, text, start)
    else:
        yield from _object(path, text, start)


def _object(path: Path, text: str, start: int) -> Iterator[Row]:
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


def _elements(path: Path, text: str, start: int) -> Iterator[Row]:
    """The array element by element, so that only one is alive and each knows its line."""
    strict, row, line, counted = _Strict(), 0, 1, 0
    at = _skip_space(text, start + 1)
    has_lines = "\n" in text[at : text.rfind("]")]  # all on one line, as json.dump writes: only the row's number tells
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
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _malformed(path: Path, text: str, error: Exception, at: int, row: int | None = None) -> DataError:
    where = f"row {row}: " if row is not None else ""
    if isinstance(error, json.JSONDecodeError):
        why = f"{error.msg[0].lower()}{error.msg[1:]}"
        return DataError(f"{path}:{error.lineno}:{error.colno}: {where}malformed JSON, {why}.")
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    why = "brackets nested too deep" if isinstance(error, RecursionError) else "a number has too many digits"
    return DataError(f"{path}:{line}:{column}: {where}{why}.")
