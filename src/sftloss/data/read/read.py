"""Any source of training data as records, with an account of every row that cannot be used."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sftloss.data.account import ON_ERROR, Account
from sftloss.data.demo import demo_rows
from sftloss.data.examples import Origin, Record
from sftloss.data.formats.record import Shape, to_record
from sftloss.data.read.csv_rows import read_csv
from sftloss.data.read.json_rows import read_json
from sftloss.data.read.tables import (
    HubName,
    is_saved_dataset,
    read_hub,
    read_parquet,
    read_saved_dataset,
    without_nulls,
)
from sftloss.data.reasons import BadRow, RowError, excerpt
from sftloss.errors import ConfigError, DataError

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".csv.gz": ",", ".tsv.gz": "\t"}
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz", ".parquet", *_DELIMITERS)
_PACKED = (".zst", ".xz", ".bz2", ".zip", ".lz4", ".7z")
_NO_DATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
_PLACEHOLDER = re.compile(r"\{\{ ?[A-Za-z_]\w* ?\}\}")  # as in {{name}}, to be filled in before training
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(,.*)?")
# a file of another kind shows within so many rows; going through the rest of it would only cost time
_HOPELESS = 10_000


class Records:
    """The records of a source, as `read_records` returns them.

    Each `for` loop opens the source anew. `account` is that of the latest loop, of no rows before the first.
    """

    def __init__(self, name: str, source: Any, shape: Shape, *, on_error: str, limit: int | None) -> None:
        self.name, self._source, self._shape, self.on_error, self._limit = name, source, shape, on_error, limit
        self.account = Account(name)

    def __iter__(self) -> Iterator[Record]:
        self.account = account = Account(self.name, unseen_columns=tuple(self._shape.columns.values()))
        count = 0
        for origin, row, source in _open(self._source):
            account.rows += 1
            try:
                record, name = _convert(row, origin, self._shape, source, account)
            except BadRow as fault:
                if self.on_error == "raise":
                    raise RowError(fault.reason, origin, fault.detail) from None
                account.reasons.add(fault.reason, origin, fault.detail)
                if account.rows >= _HOPELESS and not account.used:
                    break
                continue
            count += 1
            account.used += 1
            account.formats[name] += 1
            account.limited = count == self._limit
            yield record
            if account.limited:
                break
        account.judge(self.on_error)

    def __repr__(self) -> str:
        return f"Records({self.name!r})"


def read_records(
    source: str | os.PathLike[str] | Iterable[Mapping[str, Any] | Record],
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    on_error: str = "report",
    limit: int | None = None,
) -> Records:
    """Records of a file, a folder, a hub data set, or rows at hand.

    Args:
        source: A ``.json``, ``.jsonl``, ``.ndjson``, ``.csv`` or ``.tsv`` file (also ``.gz``), a ``.parquet`` file; a
            folder of such files, read in the order of their names, or one that ``datasets`` saved; a hub data set as
            ``owner/name`` or ``owner/name,config=...,split=...,revision=...``; ``"demo"`` for generated examples; or
            rows as mappings, or as `Record`.
        format: One of `FORMATS`; None detects the format of each row.
        columns: Names of the data's columns by what they are: ``{"prompt": "q", "response": "a", "task": "kind"}``.
            A path such as ``"instances[0].output"`` names a value inside a column.
            Keys are those of `COLUMN_ROLES`.
        on_error: What an unusable row does. ``"report"`` counts it and goes on, and more than half are an error;
            ``"skip"`` counts and goes on whatever their share; ``"count"`` does so even if no row is usable;
            ``"raise"`` stops at the first.
        limit: Number of records after which to stop.

    Returns:
        An iterable of records that can be gone through several times; its ``account`` is filled on the way.

    Raises:
        ConfigError: If an argument cannot be used.
        DataError: If the source does not exist; while iterating: if the source cannot be read, no row is usable or
            more rows are unusable than allowed; a RowError if any is and ``on_error="raise"``.

    Example:
        >>> records = read_records([{"question": "2 + 2?", "answer": "4"}, {"question": "2 + 3?"}])
        >>> [record.messages[-1].content for record in records]
        ['4']
        >>> records.account.refused
        {'unknown-shape': 1}
    """
    if on_error not in ON_ERROR:
        raise ConfigError(f"must be one of {', '.join(ON_ERROR)}, got {on_error!r}", option="on_error")
    if limit is not None and limit < 1:
        raise ConfigError(f"must be at least 1, got {limit}", option="limit")
    shape = Shape(format, dict(columns or {}))
    resolved = demo_rows(count=min(limit or 600, 600)) if source == "demo" else _resolve(source)
    name = str(source) if isinstance(resolved, Path | HubName) else "rows"
    return Records(name, resolved, shape, on_error=on_error, limit=limit)


def _resolve(source: Any) -> Any:
    """A path that exists, a hub name, or rows."""
    if isinstance(source, Mapping) or not isinstance(source, str | os.PathLike | Iterable) or isinstance(source, bytes):
        raise TypeError(f"read_records: source must be a path, a hub name or rows, got {type(source).__name__}.")
    if not isinstance(source, str | os.PathLike):
        return source
    path = Path(source)
    try:
        exists = path.exists()
    except (OSError, ValueError):  # a name too long, or with a null byte
        exists = False
    if exists:
        return path
    text = str(source)
    if isinstance(source, str) and _HUB_NAME.fullmatch(text) and not text.endswith(_SUFFIXES) and text[0] != ".":
        return HubName.parse(text)
    raise DataError(f"{excerpt(text)}: no such file or folder; a hub data set is named owner/name.")


def _open(source: Any) -> Iterator[tuple[Origin, Any, str | None]]:
    """Raw rows with their origin and the source they get where they name none."""
    if isinstance(source, HubName):
        parts: Iterable[Any] = [(None, read_hub(source))]
    elif not isinstance(source, Path):
        is_table = type(source).__module__.partition(".")[0] == "datasets"
        rows_at_hand = map(without_nulls, source) if is_table else source
        parts = [(None, ((Origin("rows", number), row) for number, row in enumerate(rows_at_hand)))]
    elif not source.is_dir():
        parts = [(None, _read_file(source))]
    elif is_saved_dataset(source):
        parts = [(None, read_saved_dataset(source))]
    else:
        parts = ((path.name[: -len(_suffix(path))], _read_file(path)) for path in _data_files(source))
    for stem, rows in parts:
        for origin, row in rows:
            yield origin, row, stem


def _suffix(path: Path) -> str:
    return next((suffix for suffix in _SUFFIXES if path.name.casefold().endswith(suffix)), "")


def _data_files(folder: Path) -> list[Path]:
    places = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    if packed := next((p for p in places if p.suffix.lower() in _PACKED and _suffix(p.with_suffix(""))), None):
        raise DataError(f"{packed}: compressed by what is not read here; unpack it, or compress it with gzip.")
    files = [path for path in places if _suffix(path) and path.name not in _NO_DATA]
    if not files:
        raise DataError(
            f"{folder}: no data file in the folder; it looks for {', '.join(_SUFFIXES)}, not in sub-folders."
        )
    return files


def _read_file(path: Path) -> Iterator[tuple[Origin, Any]]:
    suffix = _suffix(path)
    if not path.exists():
        raise DataError(f"{path}: a link to a file that is not there; fetch the file, or remove the link.")
    if not path.is_file():
        raise DataError(f"{path}: a pipe or a device, and data is read more than once; write it to a file first.")
    if not suffix:
        raise DataError(f"{path}: not a known kind of file; use {', '.join(_SUFFIXES)}.")
    if suffix in _DELIMITERS:
        return read_csv(path, _DELIMITERS[suffix])
    return read_parquet(path) if suffix == ".parquet" else read_json(path)


def _convert(row: Any, origin: Origin, shape: Shape, source: str | None, account: Account) -> tuple[Record, str]:
    if isinstance(row, BadRow):
        raise row
    if isinstance(row, Record):
        return row, "record"
    if not isinstance(row, Mapping):
        raise BadRow("not-an-object", f"the row is {excerpt(row, 40)}; give one mapping a row")
    account.saw_columns(row)
    record, name = to_record(row, origin, shape=shape, source=source)
    if record.messages and record.messages[-1].role != "assistant":
        account.reasons.add("last-turn-not-assistant", origin)
    if any(_PLACEHOLDER.search(message.content) for message in record.messages or ()):
        account.reasons.add("placeholder", origin)
    return record, name
