"""Parquet files, saved `datasets` directories and hub data sets as raw rows. A null inside a row means absent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from inspect import signature
from pathlib import Path
from typing import Any

from sftloss.data.examples import Origin
from sftloss.errors import ConfigError, DataError, quoted
from sftloss.registry import closest

StoredRow = tuple[Origin, dict[str, Any]]

# Rows decoded at a time. A slice decodes only the row groups it touches, so memory does not grow with the file.
_SLICE = 16_384


def read_parquet(path: Path) -> Iterator[StoredRow]:
    """Rows of a parquet file, a slice of them in memory at a time.

    Raises:
        DataError: If the file is not parquet, is damaged, or has no row; or if polars is not installed.
    """
    try:
        import polars as pl
    except ImportError:
        raise DataError(f"{path}: reading parquet needs polars: pip install 'sftloss[cli]'.") from None
    row = 0
    try:
        # no globbing: a name may hold * and ?
        frame = pl.scan_parquet(path, glob=False)
        height = frame.select(pl.len()).collect().item()
        for start in range(0, height, _SLICE):
            for columns in frame.slice(start, _SLICE).collect().iter_rows(named=True):
                yield Origin(str(path), row), without_nulls(columns)
                row += 1
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: not a parquet file, or a damaged one ({quoted(error, 120)}).") from None
    except BaseException as error:
        # polars reports some damage as a panic, which is no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise DataError(f"{path}: a damaged parquet file ({quoted(error, 120)}).") from None
    if row == 0:
        raise DataError(f"{path}: the file has no rows.")


def without_nulls(value: Any) -> Any:
    """A table gives every struct all keys of its column; only those with a value were in the data."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    # token ids are long and flat: look into a list only where it can hold a struct
    if isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value[:1]):
        return [without_nulls(inner) for inner in value]
    return value


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets` wrote the folder with `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def read_saved_dataset(folder: Path) -> Iterator[StoredRow]:
    """Rows of a folder that `datasets` saved; of its `train` split where it has several."""
    datasets = _datasets(str(folder))
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # arrow, json and datasets each raise their own
        raise DataError(f"{folder}: the saved dataset cannot be loaded ({quoted(error, 120)}).") from None
    yield from _rows(_split_of(loaded, str(folder), None), str(folder))


@dataclass(frozen=True)
class HubName:
    """A data set on the hub: ``owner/name,config=...,split=...,revision=...``, all but the name optional."""

    name: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName:
        """The parts of the text; ConfigError at one that is none of these."""
        name, *options = (part.strip() for part in text.split(","))
        known = [field.name for field in fields(cls)][1:]
        values: dict[str, str] = {}
        for option in options:
            key, _, value = option.partition("=")
            if key not in known or not value or key in values:
                names = ", ".join(f"{key}=..." for key in known)
                raise ConfigError(f"{option!r} in {text!r} is not one of {names}{closest(key, known)}.")
            values[key] = value
        return cls(name, **values)


def read_hub(hub: HubName) -> Iterator[StoredRow]:
    """Rows of a data set on the hub, streamed. Code that a data set brings along is never run."""
    load = _datasets(hub.name).load_dataset
    # since datasets 4 there is no such option, because there is no such code
    safety = {"trust_remote_code": False} if "trust_remote_code" in signature(load).parameters else {}
    try:
        loaded = load(hub.name, hub.config, split=hub.split, revision=hub.revision, streaming=True, **safety)
    except Exception as error:  # network, permission, unknown config: all with their own classes
        missing = "no such file or folder here, and as a hub data set it cannot be loaded"
        raise DataError(f"{hub.name}: {missing} ({quoted(error, 120)}).") from None
    try:
        yield from _rows(_split_of(loaded, hub.name, hub.split), hub.name)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{hub.name}: the hub data set broke off ({quoted(error, 120)}).") from None


def _datasets(source: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{source}: no file or folder of JSON or Parquet here; a hub data set, or one that datasets saved, needs "
            "the datasets package: pip install datasets."
        ) from None
    return datasets


def _split_of(loaded: Any, name: str, split: str | None) -> Any:
    if split is not None or not isinstance(loaded, Mapping):
        return loaded
    if "train" not in loaded and len(loaded) != 1:
        raise DataError(f"{name}: no train split; name one of {', '.join(map(str, loaded))} with {name},split=...")
    return loaded["train"] if "train" in loaded else next(iter(loaded.values()))


def _rows(rows: Iterable[Mapping[str, Any]], name: str) -> Iterator[StoredRow]:
    for number, row in enumerate(rows):
        yield Origin(name, number), without_nulls(dict(row))
