"""Files that are either the old one or the whole new one, whatever interrupts the writing."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_text_atomic(path: str | os.PathLike[str], text: str) -> Path:
    """Write `text` as UTF-8 under a temporary name beside `path`, flush it to disk, then rename it onto `path`.

    Line ends are written as they are, so equal texts are equal bytes on every system.

    Raises:
        OSError: If the directory is missing or not writable, or the disk is full. The old file is then untouched
            and no temporary file stays behind.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        # "x" creates with the umask's permissions (mkstemp would leave a report nobody else can read)
        with open(temporary, "xb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return target
