"""The folder of a reference model's values: safetensors in parts, and a manifest with the digest of each."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sftloss.errors import ConfigError, DataError, mention
from sftloss.files import locked, put_folder, read_seal, seal, strangers, write_atomic, write_json

KIND = "reference"
"""The entry ``kind`` of the manifest."""

_NAMES = ("reference", "old")
"""Names under which objectives read values: ``reference_logprob``, or ``old_logprob`` of the model before training."""

CANDIDATES, IS_TARGET = "candidate_ids", "candidate_is_target"
"""The column of the K likeliest tokens of the reference model, and which of them is the target (made when read)."""

_ROW_BYTES = 2048  # what a waiting row takes beside its values
_UNFINISHED = "unfinished.json"
_PART = re.compile(r"part-(\d{6})\.safetensors")
_OURS = re.compile(r"part-\d{6}\.safetensors|unfinished\.json|sftloss\.json|\..+\.tmp")


@dataclass(frozen=True)
class Kept:
    """The values that are stored of each token, beside the log-probability of the target.

    Attributes:
        top_k: Number of likeliest tokens whose ids and log-probabilities are stored; 0 stores none.
        has_entropy: Whether the entropy is stored.
        name: How objectives read the values: ``"reference"``, or ``"old"`` for the model before training.
    """

    top_k: int = 0
    has_entropy: bool = False
    name: str = "reference"

    def __post_init__(self) -> None:
        if self.top_k < 0:
            raise ConfigError(f"must be at least 0, got {self.top_k}", option="top_k")
        if self.name not in _NAMES:
            raise ConfigError(f"must be {' or '.join(_NAMES)}, got {self.name!r}", option="name")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the stored columns, as objectives read them from a batch."""
        top = (CANDIDATES, f"{self.name}_candidate_logprob") if self.top_k else ()
        return (f"{self.name}_logprob", *((f"{self.name}_entropy",) if self.has_entropy else ()), *top)


def row_key(input_ids: Tensor) -> int:
    """Return 64 bits of the tokens of a row, as a signed integer: rows with equal tokens have equal values.

    Example:
        >>> row_key(torch.tensor([1, 2])) == row_key(torch.tensor([1, 2])) != row_key(torch.tensor([2, 1]))
        True
    """
    data = input_ids.to(torch.int64).cpu().contiguous().numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True)


def vocabulary_identity(tokenizer: Any) -> dict[str, Any]:
    """Return size and digest of the vocabulary: what decides what a token id means."""
    words = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map], default=str)
    return {"size": len(tokenizer), "digest": hashlib.blake2b(words.encode(), digest_size=8).hexdigest()}


class ReferenceWriter:
    """Rows on their way to disk, written in parts, so that memory does not grow with the data.

    Args:
        folder: Folder of the parts. Rows in it are not computed again.
        part_bytes: A part is written when the rows that wait hold this many bytes.
        part_seconds: A part is written when its first row is this old: the time that a killed run loses.
    """

    def __init__(self, folder: Path, *, part_bytes: int = 16 << 20, part_seconds: float = 120.0) -> None:
        self.folder, self.part_bytes, self.part_seconds = folder, part_bytes, part_seconds
        self.lengths: dict[int, int] = {}
        self._rows: list[tuple[int, Mapping[str, Tensor]]] = []
        self._bytes, self._since, self._next = 0, time.monotonic(), 0
        for path in sorted(folder.glob("part-*.safetensors")):
            self._resume(path)

    def __contains__(self, key: int) -> bool:
        return key in self.lengths

    def add(self, key: int, columns: Mapping[str, Tensor]) -> None:
        """Add the columns of a row, each with one value (or K values) a token."""
        if key in self.lengths:
            return
        columns = {name: value.cpu() for name, value in columns.items()}
        self.lengths[key] = len(next(iter(columns.values())))
        self._rows.append((key, columns))
        self._bytes += _ROW_BYTES + sum(value.nbytes for value in columns.values())
        if self._bytes >= self.part_bytes or time.monotonic() - self._since > self.part_seconds:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait as one part, whole or not at all."""
        from safetensors.torch import save

        self._since = time.monotonic()
        if not self._rows:
            return
        keys = [key for key, _ in self._rows]
        tensors = {"key": torch.tensor(keys), "length": torch.tensor([self.lengths[key] for key in keys])}
        for name in self._rows[0][1]:
            tensors[name] = torch.cat([columns[name] for _, columns in self._rows])
        write_atomic(self.folder / f"part-{self._next:06d}.safetensors", save(tensors))
        self._next += 1
        self._rows, self._bytes = [], 0

    def _resume(self, path: Path) -> None:
        from safetensors import safe_open

        self._next = int(_PART.fullmatch(path.name)[1]) + 1  # type: ignore[index]
        with safe_open(path, framework="pt") as file:
            keys, lengths = file.get_tensor("key").tolist(), file.get_tensor("length").tolist()
        self.lengths |= dict(zip(keys, lengths, strict=True))


@contextmanager
def writing(output: Path, facts: Mapping[str, Any], *, overwrite: bool = False) -> Iterator[ReferenceWriter]:
    """Write a store beside `output` and rename it to `output` when it is complete.

    A run that is killed leaves a hidden folder beside `output`, from which the same call goes on.

    Args:
        output: Folder of the finished store.
        facts: What decides the values; parts of an earlier run are used only if it is the same.
        overwrite: Replace an earlier store in `output`, when the new one is complete.

    Raises:
        ConfigError: If `output` exists and is not replaced, or another process writes there.
    """
    check_output(output, overwrite=overwrite)
    work = output.parent / f".{output.name}.unfinished"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{output.parent} cannot be written ({error.strerror})", option="output") from None
    busy = ConfigError(f"{output}: another run writes there now", cure=f"choose another {mention('output')}")
    with locked(output.parent / f".{output.name}.lock", busy):
        _prepare(work, facts)
        writer = ReferenceWriter(work)
        try:
            yield writer
        except BaseException:
            writer.flush()
            if not writer.lengths:
                shutil.rmtree(work)
            raise
        writer.flush()
        (work / _UNFINISHED).unlink()
        counts = {"rows": len(writer.lengths), "tokens": sum(writer.lengths.values())}
        seal(work, {"kind": KIND, **facts, **counts})
        check_output(output, overwrite=overwrite)
        put_folder(work, output)


def default_output(data: str) -> Path:
    """The folder beside a data file or folder: ``train.jsonl.reference``; for a name on the hub in this folder."""
    path = Path(data).expanduser()
    return path.with_name(f"{path.name}.reference") if path.exists() else Path(f"{path.name}.reference")


def check_output(output: str | Path, *, overwrite: bool = False) -> None:
    """Refuse an output that exists, unless it is a store and may be replaced; change nothing.

    Raises:
        ConfigError: If it is refused.
    """
    output = Path(output).expanduser()
    if not output.exists() and not output.is_symlink():
        return
    other = f"choose another {mention('output')}"
    if output.is_symlink() or not output.is_dir():
        raise ConfigError(f"{output} exists and is not a folder", option="output", cure=other)
    try:
        is_ours = read_seal(output).get("kind") == KIND and not strangers(output)
    except DataError:
        is_ours = False
    if not is_ours and any(output.iterdir()):
        raise ConfigError(f"{output} has files that this command did not write", option="output", cure=other)
    if is_ours and not overwrite:
        raise ConfigError(
            f"{output} already exists", option="output", cure=f"{other}, or add {mention('overwrite', True)}"
        )


def _prepare(work: Path, facts: Mapping[str, Any]) -> None:
    """An unfinished folder of these facts: the one that an earlier run left, else a new one."""
    if work.is_dir() and (foreign := [path.name for path in work.iterdir() if not _OURS.fullmatch(path.name)]):
        raise ConfigError(f"{work} has files that this command did not write ({foreign[0]})", cure="move them")
    plain = json.loads(json.dumps({name: value for name, value in facts.items() if name != "command"}))
    try:
        is_same = json.loads((work / _UNFINISHED).read_text("utf-8")) == plain
    except (OSError, ValueError):
        is_same = False
    if not is_same:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        write_json(work / _UNFINISHED, plain)
    for path in work.glob(".*.tmp"):
        path.unlink()
