"""CSV and TSV files as raw rows: the first line names the columns, and an empty cell is null."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sftloss.data.examples import Origin
from sftloss.data.formats.weights import NEGATIVE, ROW_WEIGHTS, TOKEN_WEIGHTS
from sftloss.data.reasons import BadRow, excerpt
from sftloss.errors import DataError

_SIGNS = {";": "a semicolon", "\t": "a tab", "|": "a bar", ",": "a comma"}
_AS_JSON = {"input_ids", "labels", "label", "attention_mask", NEGATIVE, *ROW_WEIGHTS, *TOKEN_WEIGHTS}


def read_csv(path: Path, delimiter: str) -> Iterator[tuple[Origin, dict[str, Any] | BadRow]]:
    """Rows of a file with quotes as in RFC 4180, read one at a time.

    Raises:
        DataError: If the file cannot be read, is damaged, or holds no row.
    """
    csv.field_size_limit(sys.maxsize)
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    row, line = 0, 1
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            names = [name.strip() for name in next(reader, [])]
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise DataError(f"{path}:1: two columns have the name {excerpt(twice, 40)}; rename or remove one.")
            other = next((mark for mark in _SIGNS if len(names) == 1 and mark in names[0] and mark != delimiter), None)
            if other:
                raise DataError(
                    f"{path}:1: the names of the columns are separated by {_SIGNS[other]}; files of this kind are read "
                    f"with {_SIGNS[delimiter]} between the cells, so save it that way."
                )
            line = reader.line_num + 1
            for cells in reader:
                if cells:
                    yield Origin(str(path), row, line), _row(names, cells)
                    row += 1
                line = reader.line_num + 1
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the compressed file is cut off or damaged ({error}); make it again.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}:{line}: not UTF-8; save the file as UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path}:{line}: {error}; quote cells as RFC 4180 says.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from None
    if row == 0:
        raise DataError(f"{path}: the file has no rows.")


def _row(names: list[str], cells: list[str]) -> dict[str, Any] | BadRow:
    if len(cells) != len(names):
        detail = f"the row has {len(cells)} cells and the first line {len(names)}; quote cells that hold the delimiter"
        return BadRow("unknown-shape", detail)
    return {name: _value(name, cell) if cell else None for name, cell in zip(names, cells, strict=True)}


def _value(name: str, cell: str) -> Any:
    """The text of a cell; numbers and lists, written as JSON, in the columns that hold them."""
    if name not in _AS_JSON:
        return cell
    try:
        return json.loads(cell.lower() if cell in ("True", "False") else cell)
    except (ValueError, RecursionError):
        return cell
