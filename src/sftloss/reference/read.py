"""The values of a reference model, read row by row from one or several folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sftloss.data import Batch, Example, with_columns
from sftloss.errors import ConfigError, DataError, mention
from sftloss.files import read_seal, verify_folder
from sftloss.reference.store import CANDIDATES, IS_TARGET, KIND, row_key, vocabulary_identity

_OPEN = 128  # files held open at a time
_AGAIN = "make it again with sftloss reference"


class _Store:
    """One folder: an index of its rows in memory, 16 bytes a row, and its columns on disk."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            kind = "is a file" if folder.exists() else "is missing"
            raise ConfigError(
                f"{folder} {kind}", option="reference", cure="give the folder that sftloss reference wrote"
            )
        try:
            is_reference = read_seal(folder).get("kind") == KIND
            self.facts = verify_folder(folder) if is_reference else {}
        except DataError as error:
            cure = "remove the folder and make it again with sftloss reference"
            raise DataError(error.problem, option="reference", cure=cure) from None
        if not is_reference:
            raise ConfigError(f"{folder} holds no values of a reference model", option="reference", cure=_AGAIN)
        self.folder, self._files = folder, dict[str, Any]()
        stored = tuple(self.facts["columns"])
        self.columns: tuple[str, ...] = (*stored, IS_TARGET) if CANDIDATES in stored else stored
        self.parts = sorted(name for name in self.facts["files"] if name.endswith(".safetensors"))
        keys, where = [np.zeros(0, np.int64)], [np.zeros((0, 3), np.int64)]
        for number, name in enumerate(self.parts):
            lengths = self._file(name).get_tensor("length").numpy()
            starts = np.cumsum(lengths) - lengths
            keys.append(self._file(name).get_tensor("key").numpy())
            where.append(np.stack([np.full_like(lengths, number), starts, lengths], axis=1))
        order = np.argsort(np.concatenate(keys), kind="stable")
        self.keys, self.where = np.concatenate(keys)[order], np.concatenate(where)[order]

    @property
    def candidates(self) -> tuple[str, int]:
        """Whose likeliest tokens are stored, and how many of each token."""
        return self.facts["name"], self._file(self.parts[0]).get_slice(CANDIDATES).get_shape()[1]

    def rows(self, input_ids: Tensor) -> tuple[str, slice] | None:
        """The part that holds a row, and its place in it; None where the row is not there."""
        key = row_key(input_ids)
        at = int(np.searchsorted(self.keys, key))
        if at == len(self.keys) or self.keys[at] != key:
            return None
        part, start, length = self.where[at].tolist()
        return (self.parts[part], slice(start, start + length)) if length == len(input_ids) else None

    def column(self, place: tuple[str, slice], name: str) -> Tensor:
        """The values of a row, ``(tokens,)`` or ``(tokens, K)``."""
        values: Tensor = self._file(place[0]).get_slice(name)[place[1]]
        return values

    def _file(self, name: str) -> Any:
        from safetensors import safe_open

        if name not in self._files:
            if len(self._files) >= _OPEN:
                self._files.pop(next(iter(self._files)))
            self._files[name] = safe_open(self.folder / name, framework="pt")
        return self._files[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_files": {}}  # open files do not follow into another process


class References:
    """Values of one or several folders, by the tokens of a row. A copy in another process opens the files anew.

    Args:
        folders: Folders that ``sftloss reference`` wrote. Where several hold a column, each row is looked up in all.

    Raises:
        ConfigError: If a folder is missing or holds something else, or two hold likeliest tokens of another name or
            number: a batch has one set of ids.
        DataError: If one is not complete, or a file in it is damaged.
    """

    def __init__(self, folders: Sequence[str | Path]) -> None:
        self._stores = [_Store(Path(folder).expanduser()) for folder in folders]
        with_candidates = [store for store in self._stores if CANDIDATES in store.columns]
        for one in with_candidates[1:]:
            first = with_candidates[0]
            if one.candidates != first.candidates:
                problem = f"{first.folder} and {one.folder} differ in the name or the number of their likeliest tokens"
                raise ConfigError(problem, option="reference", cure="store likeliest tokens in one way only")

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that batches can have, as objectives read them."""
        return tuple(dict.fromkeys(name for store in self._stores for name in store.columns))

    @property
    def facts(self) -> tuple[Mapping[str, Any], ...]:
        """The manifest of each folder."""
        return tuple(store.facts for store in self._stores)

    def columns(self, input_ids: Any, names: Sequence[str] | None = None, *, where: object = None) -> dict[str, Tensor]:
        """The values of a row, laid out as its labels are: value t is of token t, and that of the first token is 0.

        With ``Dataset.map(lambda row: references.columns(row["input_ids"]))`` a data set gets them as columns.

        Args:
            input_ids: The tokens of the row, ``(tokens,)``.
            names: The columns; by default all.
            where: The place of the row, for messages.

        Raises:
            ConfigError: If no folder has such a column.
            DataError: If a row is not in the folders that have the column.
        """
        ids = torch.as_tensor(input_ids)
        return {name: self._column(ids, name, where) for name in (self.names if names is None else names)}

    def lay(self, batch: Batch, names: Sequence[str]) -> Batch:
        """The batch with these columns as `extras`, aligned with its targets.

        Raises:
            ConfigError, DataError: As :meth:`columns`.
        """
        rows = [self.columns(example.input_ids, names, where=example.origin) for example in batch.examples]
        return with_columns(batch, rows)

    def check(self, examples: Iterable[Example], names: Sequence[str]) -> None:
        """Refuse rows without values, before anything is computed.

        Raises:
            ConfigError, DataError: As :meth:`columns`.
        """
        holders = [self._holders(name) for name in names]
        for example in examples:
            for stores in holders:
                if all(store.rows(example.input_ids) is None for store in stores):
                    raise _missing_row(stores, example.origin)

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse columns that no folder has.

        Raises:
            ConfigError: At the first one.
        """
        for name in names:
            self._holders(name)

    def check_reading(self, tokenizer: Any, encoding: Mapping[str, Any] | None) -> None:
        """Refuse values that were computed with another tokenizer, or of rows that were read in another way.

        Args:
            tokenizer: The tokenizer of the run.
            encoding: The fields of :class:`sftloss.data.Encoding`, with the template as text; None checks none of them.

        Raises:
            ConfigError: Naming what differs.
        """
        own = vocabulary_identity(tokenizer)
        for store in self._stores:
            if store.facts["tokenizer"] != own:
                problem = f"{store.folder} was made with another tokenizer ({store.facts['tokenizer']['size']:,} tokens"
                problem += f"; this run has {own['size']:,})"
                raise ConfigError(problem, option="reference", cure="make it again with a model of this tokenizer")
            for name, now in (encoding or {}).items():
                if name != "think_weight" and (was := store.facts["encoding"].get(name, now)) != now:  # a weight
                    shown = "" if name == "template" else f" ({_shown(was)}; this run has {_shown(now)})"
                    problem = f"{store.folder} was made with another {mention(name)}{shown}"
                    raise ConfigError(problem, option="reference", cure=f"{_AGAIN} and the options of this run")

    def _column(self, ids: Tensor, name: str, where: object) -> Tensor:
        stores = self._holders(name)
        for store in stores:
            if (place := store.rows(ids)) is not None:
                is_made = name == IS_TARGET
                values = store.column(place, CANDIDATES if is_made else name)
                return values == ids[:, None] if is_made else values
        raise _missing_row(stores, where)

    def _holders(self, name: str) -> list[_Store]:
        if stores := [store for store in self._stores if name in store.columns]:
            return stores
        folders = ", ".join(str(store.folder) for store in self._stores)
        raise ConfigError(f"{folders} has no {name}", option="reference", cure=_cure_of(name))


def open_references(
    folders: str | Path | Sequence[str | Path], tokenizer: Any = None, encoding: Mapping[str, Any] | None = None
) -> References:
    """Open folders that ``sftloss reference`` wrote, after every file was compared with its digest.

    Args:
        folders: One folder or several; the second may hold other rows or other columns.
        tokenizer: The tokenizer of the run, which must be that of the reference; None checks nothing.
        encoding: How the run reads its rows (fields of :class:`sftloss.data.Encoding`); None leaves that to the rows.

    Raises:
        ConfigError: If a folder is missing, holds something else, or does not fit the run.
        DataError: If one is not complete, or a file in it is damaged.

    Example:
        >>> references = open_references(["train.jsonl.reference"], tokenizer)        # doctest: +SKIP
        >>> rows = rows.map(lambda row: references.columns(row["input_ids"]))          # doctest: +SKIP
    """
    references = References([folders] if isinstance(folders, str | Path) else folders)
    if tokenizer is not None:
        from sftloss.data.rendering.families import read_template

        if encoding is not None:
            encoding = {**encoding, "template": read_template(encoding["template"], tokenizer)}
        references.check_reading(tokenizer, encoding)
    return references


def _cure_of(name: str) -> str:
    """The flag of `sftloss reference` that stores a column."""
    if "candidate" in name:
        return f"{_AGAIN} and its option top-k, for example 20"
    if name.endswith("_entropy"):
        return f"{_AGAIN} and its option entropy"
    return f"make a second folder with sftloss reference and its option name: {name.partition('_')[0]}"


def _missing_row(stores: Sequence[_Store], where: object) -> DataError:
    folders = " or ".join(f"{store.folder} (made from {store.facts['source']})" for store in stores)
    return DataError(f"this row has no values in {folders}", where=where, cure=f"{_AGAIN} from this data")


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
