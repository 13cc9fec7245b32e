"""The folder of a report: earlier results are replaced only by finished ones, and two runs never share it."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftloss.errors import ConfigError, mention
from sftloss.files import OptionPath, check_outputs, locked, put_folder, write_all_atomic
from sftloss.models import read_places
from sftloss.pipeline.run import Run

if TYPE_CHECKING:
    from sftloss.report import Report

PAGE, DATA, TABLE = "report.html", "report.json", "table"
_NEXT = ".table.next"
_OF_TABLE = re.compile(
    r"manifest\.json|gradients-(norms|shares)\.jsonl|(parts|done)-[\w-]+\.json|\.lock-\d+|\.?(tokens|examples)-[\w.-]+"
)


@dataclass(frozen=True)
class ReportFolder:
    """Where results go; `root` is None where nothing is to stay."""

    table: Path
    root: Path | None = None

    def write(self, report: Report) -> None:
        """Put the table in its place, then page and JSON, both or neither."""
        if self.root is None:
            return
        if self.table.name == _NEXT and self.table.exists():
            old = self.root / TABLE
            _refuse_foreign(old)
            put_folder(self.table, old)
        write_all_atomic({self.root / DATA: report.to_json(), self.root / PAGE: report.to_html()})


@contextmanager
def folder(run: Run, rows: Any = None, *, resumes: bool = True) -> Iterator[ReportFolder]:
    """The folder of `run`, checked before anything is computed and locked; a temporary one where `run` names none.

    A table without a single part that a run leaves behind because it failed is removed again.

    Args:
        run: Names the folder, and what may happen to what is there.
        rows: The data, which must be no part of what is written.
        resumes: Whether the caller can continue an earlier table.

    Raises:
        ConfigError: If it holds an earlier report and `run` neither overwrites nor resumes, cannot be written, is
            being written by another process, or the data is in it.
    """
    if run.output is None:
        with tempfile.TemporaryDirectory(prefix="sftloss-") as temporary:
            yield ReportFolder(Path(temporary) / TABLE)
        return
    root, other = Path(run.output).expanduser(), f"choose another {mention('output')}"
    check_folder(run, rows, resumes=resumes)
    is_new = not root.exists()
    try:  # a run of an hour must not end in a folder that cannot be written
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise ConfigError(f"{root} cannot be written ({error.strerror})", cure=other) from None
    try:
        with locked(root / ".lock", ConfigError(f"{root}: another run writes there now", cure=other)):
            if run.overwrite and resumes:
                _refuse_foreign(root / TABLE, root / _NEXT)
                shutil.rmtree(root / _NEXT, ignore_errors=True)
            table = table_of(run)
            try:
                yield ReportFolder(table, root)
            except BaseException:
                # other ranks may still be writing
                is_empty = table.is_dir() and not table.is_symlink() and not any(table.glob("*.parquet"))
                if run.shard[1] == 1 and is_empty:
                    shutil.rmtree(table, ignore_errors=True)
                raise
    finally:
        if is_new and root.is_dir() and not any(root.iterdir()):
            root.rmdir()


def table_of(run: Run) -> Path:
    """Where the table of `run` is measured: beside the earlier one where that is replaced at the end."""
    root = Path(run.output or "").expanduser()
    is_next = run.overwrite or (run.resume and (root / _NEXT).is_dir())
    return root / (_NEXT if is_next else TABLE)


def check_folder(run: Run, rows: Any = None, *, resumes: bool = True) -> None:
    """Refuse a folder with an earlier report that `run` neither replaces nor continues; changes nothing.

    Raises:
        ConfigError: If it holds one, or the data is in what would be written.
    """
    if run.output is None:
        return
    root = Path(run.output).expanduser()
    names = (PAGE, DATA, TABLE) if resumes else (PAGE, DATA)
    source = read_places("data", str(rows)) if isinstance(rows, str | Path) else []
    check_outputs(source, [OptionPath("output", root / name) for name in names])
    there = [name for name in (PAGE, DATA, TABLE, _NEXT) if (root / name).exists() or (root / name).is_symlink()]
    if there and not (run.overwrite or run.resume):
        go_on = f" or {mention('resume', True)}" if resumes and {TABLE, _NEXT} & {*there} else ""
        cure = f"choose another {mention('output')}, or add {mention('overwrite', True)}{go_on}"
        raise ConfigError(f"{root} already has {', '.join(there)}", cure=cure)


def _refuse_foreign(*tables: Path) -> None:
    """Refuse to replace what is no table of ours, or holds files that are none of a table's."""
    for table in tables:
        if table.is_symlink():
            problem = f"{table} is a link"
        elif table.is_dir() and (foreign := [p.name for p in table.iterdir() if not _OF_TABLE.fullmatch(p.name)]):
            problem = f"{table} has files that no run wrote ({', '.join(sorted(foreign)[:3])})"
        elif table.is_dir() and any(table.iterdir()) and not (table / "manifest.json").is_file():
            problem = f"{table} is not a table that this tool wrote, so {mention('overwrite', True)} leaves it"
        elif table.exists() and not table.is_dir():
            problem = f"{table} is not a folder"
        else:
            continue
        raise ConfigError(problem, cure=f"move it, or choose another {mention('output')}")
