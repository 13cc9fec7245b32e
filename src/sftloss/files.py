"""Files and folders on disk: written whole or not at all, locked against other processes, identified by content."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sftloss.errors import ConfigError

_BLOCK = 1 << 20
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


def put_folder(source: Path, target: Path) -> None:
    """Flush the folder `source` to disk and rename it to `target`; an older `target` is removed only afterwards.

    Raises:
        OSError: If a rename fails. The older `target` is then back in its place.
    """
    for path in [*source.rglob("*"), source]:
        _flush(path)
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
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold the lock file `path`. The system releases it however the process ends.

    Args:
        path: The lock file; it is created and stays.
        busy: What the error says where another process holds the lock. None: wait for that process.

    Raises:
        ConfigError: If another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no flock: there nothing is locked
        yield
        return
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if busy is None else fcntl.LOCK_NB))
        except OSError:
            if busy is None:
                raise
            raise ConfigError(busy) from None
        yield


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


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        # some file systems cannot flush a folder; the rename is atomic all the same
        with suppress(*([OSError] if path.is_dir() else [])):
            os.fsync(handle)
    finally:
        os.close(handle)
