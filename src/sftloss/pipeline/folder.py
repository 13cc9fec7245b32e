"""The folder of a report: never a user's file lost, never a half-written report."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sftloss.errors import ConfigError, mention
from sftloss.files import write_all_atomic
from sftloss.pipeline.run import Run

if TYPE_CHECKING:
    from sftloss.report import Report

PAGE, DATA, TABLE = "report.html", "report.json", "table"


@dataclass(frozen=True)
class ReportFolder:
    """Where results go; `page` and `data` are None where nothing is to stay."""

    table: Path
    page: Path | None = None
    data: Path | None = None

    def write(self, report: Report) -> None:
        """Put page and JSON there, both or neither."""
        if self.page is not None and self.data is not None:
            write_all_atomic({self.data: report.to_json(), self.page: report.to_html()})


@contextmanager
def folder(run: Run, *, resumes: bool = True) -> Iterator[ReportFolder]:
    """The folder of `run`, checked before anything is computed; a temporary one where `run` names none.

    A table without a single part that a run leaves behind because it failed is taken away again.

    Args:
        run: Says which folder, and what may happen to what is there.
        resumes: Whether who asks can go on from an earlier table, so that the error may say so.

    Raises:
        ConfigError: If it holds an earlier report and `run` neither overwrites nor resumes, or cannot be written.
    """
    if run.output is None:
        with tempfile.TemporaryDirectory(prefix="sftloss-") as temporary:
            yield ReportFolder(Path(temporary) / TABLE)
        return
    root = Path(run.output).expanduser()
    check_folder(run, resumes=resumes)
    is_new = not root.exists()
    _make_writable(root)
    if run.overwrite:
        _clear(root / TABLE)
    try:
        yield ReportFolder(root / TABLE, root / PAGE, root / DATA)
    except BaseException:
        if run.shard[1] == 1:  # other ranks may still be writing
            _take_away_empty(root, is_new=is_new)
        raise


def check_folder(run: Run, *, resumes: bool = True) -> None:
    """Refuse a folder with an earlier report that `run` neither replaces nor goes on from; changes nothing.

    Raises:
        ConfigError: If it holds one.
    """
    if run.output is None:
        return
    root = Path(run.output).expanduser()
    there = [name for name in (PAGE, DATA, TABLE) if (root / name).exists() or (root / name).is_symlink()]
    if there and not (run.overwrite or run.resume):
        go_on = " or --resume" if resumes and TABLE in there else ""
        raise ConfigError(
            f"{root} already has {', '.join(there)}",
            cure=f"choose another {mention('output')}, or add {mention('overwrite')}{go_on}",
        )


def _make_writable(root: Path) -> None:
    """A run of an hour must not end in a folder that cannot be written."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise ConfigError(
            f"{root} cannot be written ({error.strerror})", cure=f"choose another {mention('output')}"
        ) from None


def _clear(table: Path) -> None:
    """Remove the table of an earlier run, and nothing that is not one."""
    if table.is_symlink():
        raise ConfigError(f"{table} is a link", cure=f"remove it yourself, or choose another {mention('output')}")
    if not table.exists():
        return
    if not (table / "manifest.json").is_file() and any(table.iterdir()):
        raise ConfigError(
            f"{table} is not a table that this tool wrote, so {mention('overwrite')} leaves it",
            cure=f"choose another {mention('output')}",
        )
    shutil.rmtree(table)


def _take_away_empty(root: Path, *, is_new: bool) -> None:
    """After a failure: a table in which nothing was measured yet, and the folder if this run made it."""
    table = root / TABLE
    if table.is_dir() and not table.is_symlink() and not any(table.glob("*.parquet")):
        shutil.rmtree(table, ignore_errors=True)
    if is_new and root.is_dir() and not any(root.iterdir()):
        root.rmdir()
