"""Files and folders on disk: written whole or not at all, locked against other processes, identified by content."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from sftloss.errors import ConfigError, DataError, mention

SEAL = "sftloss.json"
"""In a folder that this package wrote: its files, with sizes and digests. Only such folders are ever replaced."""

_BLOCK = 1 << 20
_HASHED = 256 * 2**20  # of larger files only the size is compared: hashing would hold a run up
_ABANDONED = 3600.0  # seconds after which an unfinished folder belongs to a process that was killed


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write one file under a temporary name beside `path`, flush it to disk, then rename it onto `path`.

    Args:
        path: The file. A symbolic link is replaced, not followed.
        content: Bytes, or text, which is written as UTF-8 with its line ends as they are.

    Raises:
        OSError: If the folder is missing or not writable, or the disk is full. The old file is then untouched and no
            temporary file remains. Its `filename` is `path`.
    """
    return write_all_atomic({path: content})[0]


def write_all_atomic(contents: Mapping[str | os.PathLike[str], str | bytes]) -> list[Path]:
    """Write several files that belong together: none is replaced before all are on disk under temporary names.

    Raises:
        OSError: As :func:`write_atomic`.
    """
    targets = [Path(path) for path in contents]
    temporaries = [_beside(target, "tmp") for target in targets]
    try:
        for target, temporary, content in zip(targets, temporaries, contents.values(), strict=True):
            _write(target, temporary, content)
        for target, temporary in zip(targets, temporaries, strict=True):
            os.replace(temporary, target)
    except BaseException:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
        raise
    return targets


class OptionPath(NamedTuple):
    """A file or folder that an option names."""

    option: str
    path: Path


def check_outputs(inputs: Sequence[OptionPath], outputs: Sequence[OptionPath]) -> None:
    """Refuse outputs that are an input, part of one, or another output, whatever links lead there.

    Args:
        inputs: Files and folders that are read. Names that are neither (of the hub) are never part of an output.
        outputs: Files and folders that are written, as a whole.

    Raises:
        ConfigError: For the first such output; nothing has been written then.
    """
    for i, output in enumerate(outputs):
        for other in (*inputs, *outputs[:i]):
            if _is_same(output.path, other.path) or _is_in(other.path, output.path):
                what = "is read" if other in inputs else "is written too"
                problem = f"{output.path} would replace {other.path}, which {what} ({mention(other.option)})"
            elif output.path.exists() and _is_in(output.path, other.path):
                problem = f"{output.path} is a part of {other.path} ({mention(other.option)})"
            else:
                continue
            raise ConfigError(problem, option=output.option, cure="choose another name")


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file: by name, by symbolic links or by hard links."""
    try:
        return one.samefile(other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def _is_in(path: Path, folder: Path) -> bool:
    """Whether a path is in a folder, by name or as another hard link of a file in it."""
    if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        return True
    if not folder.is_dir() or not path.is_file() or path.stat().st_nlink == 1:
        return False
    return any(file.is_file() and path.samefile(file) for file in folder.rglob("*"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as one JSON file; numbers that are not finite become null."""
    write_atomic(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def json_lines(values: Iterable[Any]) -> str:
    """One JSON object per line, its keys sorted; numbers that are not finite become null."""
    return "".join(
        json.dumps(plain(value), ensure_ascii=False, allow_nan=False, sort_keys=True) + "\n" for value in values
    )


def plain(value: Any) -> Any:
    """The value in the types of JSON: a number that is not finite is None, a tuple a list."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def seal(folder: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Add the manifest of a finished folder: `facts`, and each file's size and, up to 256 MiB, its digest."""
    files = {
        name: {"bytes": path.stat().st_size, "sha256": file_digest(path) if path.stat().st_size <= _HASHED else None}
        for name, path in _files_in(folder).items()
    }
    write_json(folder / SEAL, {"format": 1, **(facts or {}), "files": files})


def read_seal(folder: Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        DataError: If there is none, or it is damaged.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        if facts["format"] != 1:
            raise DataError(f"{folder / SEAL} has format {facts['format']!r}, and this version reads format 1")
        if all(isinstance(name, str) and {"bytes", "sha256"} <= entry.keys() for name, entry in facts["files"].items()):
            return facts
    except FileNotFoundError:
        raise DataError(f"{folder} lacks {SEAL}, so it is not complete") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise DataError(f"{folder / SEAL} is damaged")


def verify_folder(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, after every file was compared with it.

    Raises:
        DataError: If a file is missing, cut off or changed, or the manifest is; the message names the file.
    """
    facts = read_seal(folder)
    for name, entry in facts["files"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{folder} lacks {name}")
        if path.stat().st_size != entry["bytes"]:
            raise DataError(f"{path} has {path.stat().st_size:,} bytes and should have {entry['bytes']:,}")
        if entry["sha256"] is not None and file_digest(path) != entry["sha256"]:
            raise DataError(f"{path} is not what was written")
    return facts


def strangers(folder: Path) -> list[str]:
    """Files in a folder that its manifest does not list; all of them where it has no readable manifest."""
    try:
        own = {*read_seal(folder)["files"], SEAL}
    except DataError:
        own = set()
    return [name for name in _files_in(folder) if name not in own]


def remove_own(folder: Path) -> None:
    """Remove the files that a folder's manifest lists, and the folders that are empty then; nothing else."""
    if folder.is_symlink() or not folder.is_dir():
        return
    others = set(strangers(folder))
    for name, path in _files_in(folder).items():
        if name not in others:
            path.unlink(missing_ok=True)
    if not others:  # it is what allows the rest to be removed, should this be interrupted
        (folder / SEAL).unlink(missing_ok=True)
    for path in sorted([*folder.rglob("*"), folder], reverse=True):
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()


def put_folder(source: Path, target: Path) -> None:
    """Flush the folder `source` to disk and rename it to `target`; an older `target` is removed only afterwards.

    Raises:
        OSError: If a rename fails. The older `target` is then back in its place.
    """
    for path in [*source.rglob("*"), source]:
        _flush(path, target / path.relative_to(source))
    old = _beside(target, "old") if target.exists() else None
    if old is not None:
        os.replace(target, old)
    try:
        os.replace(source, target)
    except BaseException:
        if old is not None:
            os.replace(old, target)
        raise
    _flush(target.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(path: Path, busy: str | ConfigError | None = None) -> Iterator[None]:
    """Hold the lock file `path`. The system releases it however the process ends.

    Args:
        path: The lock file; it is created, and removed at the end.
        busy: The error where another process holds the lock. None: wait for that process.

    Raises:
        ConfigError: If another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no flock: there nothing is locked
        yield
        return
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if busy is None else fcntl.LOCK_NB))
            except OSError:
                if busy is None:
                    raise
                raise (ConfigError(busy) if isinstance(busy, str) else busy) from None
            try:
                if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    continue
            except FileNotFoundError:  # the process that was waited for has removed it
                continue
            try:
                yield
            finally:
                with suppress(OSError):
                    path.unlink()
            return


def cached_folder(folder: Path, make: Callable[[Path], None], files: Sequence[str]) -> Path:
    """Return `folder`, made once by `make` and kept.

    `make` fills a folder beside it, which is renamed when complete: a killed process leaves no half of it under this
    name. A second process waits for the first.

    Args:
        folder: Where the result stays.
        make: Fills the empty folder that it is given.
        files: Names that a complete folder has.

    Raises:
        OSError: If the folder cannot be written.
    """

    def is_complete() -> bool:
        return all((folder / name).is_file() for name in files)

    if is_complete():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / f".{folder.name}.lock"):
        if is_complete():
            return folder
        for other in folder.parent.glob(f".{folder.name}.*.new"):
            if time.time() - other.stat().st_mtime > _ABANDONED:
                shutil.rmtree(other, ignore_errors=True)
        new = _beside(folder, "new")
        new.mkdir()
        try:
            make(new)
            put_folder(new, folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return folder


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content in hexadecimal, read block by block."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _files_in(folder: Path) -> dict[str, Path]:
    """Files and links in a folder and below it, by their path in it; the manifest itself is left out."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {str(path.relative_to(folder)): path for path in paths if path != folder / SEAL}


def _beside(path: Path, kind: str) -> Path:
    """A hidden name that nothing else has, on the same file system."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}")


def _write(target: Path, temporary: Path, content: str | bytes) -> None:
    try:
        # "x" creates with the umask's permissions (mkstemp would leave a report nobody else can read)
        with open(temporary, "xb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # writing to an open file names no file
        raise OSError(error.errno, error.strerror or str(error), str(target)) from error


def _flush(path: Path, name: Path | None = None) -> None:
    """Flush a file or folder to disk; an error names it, or `name`, under which it will be known."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir():  # some file systems cannot flush a folder; the rename is atomic all the same
            raise OSError(error.errno, error.strerror or str(error), str(name or path)) from error
    finally:
        os.close(handle)
