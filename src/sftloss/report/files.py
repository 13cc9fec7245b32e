"""Files that are either the old one or the whole new one, whatever interrupts the writing."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path


def write_text_atomic(path: str | os.PathLike[str], text: str) -> Path:
    """Write `text` as UTF-8 under a temporary name beside `path`, flush it to disk, then rename it onto `path`.

    Line ends are written as they are, so equal texts are equal bytes on every system.

    Raises:
        OSError: If the directory is missing or not writable, or the disk is full. The old file is then untouched
            and no temporary file stays behind. Its `filename` is `path`.
    """
    return write_all_atomic({path: text})[0]


def write_all_atomic(texts: Mapping[str | os.PathLike[str], str]) -> list[Path]:
    """As :func:`write_text_atomic`, several files that belong together: no old one is replaced before all are written.

    Raises:
        OSError: As there.
    """
    targets = [Path(path) for path in texts]
    temporaries = [target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp") for target in targets]
    try:
        for target, temporary, text in zip(targets, temporaries, texts.values(), strict=True):
            _write(target, temporary, text)
        for target, temporary in zip(targets, temporaries, strict=True):
            os.replace(temporary, target)
    except BaseException:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
        raise
    return targets


def _write(target: Path, temporary: Path, text: str) -> None:
    try:
        # "x" creates with the umask's permissions (mkstemp would leave a report nobody else can read)
        with open(temporary, "xb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # writing to a file at hand names no file
        raise OSError(error.errno, error.strerror or str(error), str(target)) from error
