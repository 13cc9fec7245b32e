"""The folder of a report: never a user's file lost, never a half-written report."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sftloss.errors import ConfigError
from sftloss.pipeline._run import Run

PAGE, DATA, TABLE = "report.html", "report.json", "table"


@dataclass(frozen=True)
class Folder:
    """Where results go; `page` and `data` are None where nothing is to stay."""

    table: Path
    page: Path | None = None
    data: Path | None = None


@contextmanager
def folder(run: Run) -> Iterator[Folder]:
    """The folder of `run`, checked before anything is computed; a temporary one where `run` names none.

    Raises:
        ConfigError: If it holds an earlier report and `run` neither overwrites nor resumes, or cannot be written.
    """
    if run.output is None:
        with tempfile.TemporaryDirectory(prefix="sftloss-") as temporary:
            yield Folder(Path(temporary) / TABLE)
        return
    root = Path(run.output).expanduser()
    check_folder(run)
    _make_writable(root)
    if run.overwrite:
        _clear(root / TABLE)
    yield Folder(root / TABLE, root / PAGE, root / DATA)


def check_folder(run: Run) -> None:
    """Refuse a folder with an earlier report that `run` neither replaces nor goes on from; changes nothing.

    Raises:
        ConfigError: If it holds one.
    """
    if run.output is None:
        return
    root = Path(run.output).expanduser()
    there = [name for name in (PAGE, DATA, TABLE) if (root / name).exists() or (root / name).is_symlink()]
    if there and not (run.overwrite or run.resume):
        raise ConfigError(
            f"{root} already has {', '.join(there)}; choose another --output, or say --overwrite or --resume."
        )


def _make_writable(root: Path) -> None:
    """A run of an hour must not end in a folder that cannot be written."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise ConfigError(f"{root}: cannot be written ({error.strerror}); choose another --output.") from None


def _clear(table: Path) -> None:
    """Remove the table of an earlier run, and nothing that is not one."""
    if table.is_symlink():
        raise ConfigError(f"{table} is a link; remove it yourself, or choose another --output.")
    if not table.exists():
        return
    if not (table / "manifest.json").is_file() and any(table.iterdir()):
        raise ConfigError(f"{table} is no table of ours, so --overwrite leaves it; choose another --output.")
    shutil.rmtree(table)
