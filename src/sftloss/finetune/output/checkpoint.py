"""Checkpoints that are complete or not there, and that say what they were made by.

The Trainer writes into a folder of another name; when all ranks have written, a manifest with the size of every file
is added and the folder is renamed to ``checkpoint-N``. So a run killed while it writes leaves its earlier checkpoints
as they were, and a checkpoint that lacks something was damaged afterwards: it is refused by name.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sftloss.errors import ConfigError, mention
from sftloss.files import file_digest, put_folder
from sftloss.finetune.output.files import plain, write_json

UNFINISHED, MANIFEST = ".unfinished", "sftloss.json"
_NAME = re.compile(r"checkpoint-(\d+)")
# hashing larger files would hold the run up; their sizes are compared
_HASHED = 256 * 2**20


def step_of(checkpoint: Path) -> int:
    """The optimizer step in a checkpoint's name, -1 for other names."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1


def checkpoints(folder: Path) -> list[Path]:
    """Every checkpoint in the folder, the newest first."""
    there = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in there if path.is_dir() and step_of(path) >= 0), key=step_of, reverse=True)


def chosen(folder: Path, *, resume: bool, resume_from: str | None) -> Path | None:
    """The checkpoint to go on from, whole; None where a run starts.

    Raises:
        ConfigError: If the one named is not there, or it or the newest one is damaged.
    """
    if resume_from is not None:
        path = folder / Path(resume_from).name
        if not path.is_dir():
            there = ", ".join(found.name for found in checkpoints(folder)) or "none"
            raise ConfigError(f"{path} does not exist", option="resume_from", cure=f"there is {there}")
    else:
        path = next(iter(checkpoints(folder)), None) if resume else None  # type: ignore[assignment]
    if path is not None:
        verify(path)
    return path


def verify(checkpoint: Path) -> dict[str, Any]:
    """What the manifest says, after every file was held against it.

    Raises:
        ConfigError: If a file is missing, cut off or changed; the message names it and what to do.
    """
    others = [path.name for path in checkpoints(checkpoint.parent) if path != checkpoint]
    cure = f"go on from another with resume_from={others[0]}" if others else "there is no other; start anew"
    try:
        facts: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        files = facts["files"]
    except FileNotFoundError:
        raise ConfigError(f"{checkpoint} lacks {MANIFEST}, so it is not complete", cure=cure) from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{checkpoint / MANIFEST} is damaged", cure=cure) from None
    for name, told in files.items():
        path = checkpoint / name
        if not path.is_file():
            raise ConfigError(f"{checkpoint} lacks {name}", cure=cure)
        if path.stat().st_size != told["bytes"]:
            size = path.stat().st_size
            raise ConfigError(f"{path} has {size:,} bytes and should have {told['bytes']:,}", cure=cure)
        if told["sha256"] is not None and file_digest(path) != told["sha256"]:
            raise ConfigError(f"{path} is not what was written", cure=cure)
    return facts


def publish(unfinished: Path, target: Path, facts: Mapping[str, Any], keep: int | None, best: int = 0) -> None:
    """Add the manifest, put the folder in its place, and remove the oldest beyond `keep`, but for the step `best`."""
    files = {
        str(path.relative_to(unfinished)): {
            "bytes": path.stat().st_size,
            "sha256": file_digest(path) if path.stat().st_size <= _HASHED else None,
        }
        for path in sorted(unfinished.rglob("*"))
        if path.is_file()
    }
    write_json(unfinished / MANIFEST, {"format": 1, **facts, "files": files})
    put_folder(unfinished, target)  # the same step may be there, from before the run went on from an earlier one
    for old in checkpoints(target.parent)[keep:] if keep is not None else ():
        if step_of(old) != best:
            shutil.rmtree(old)


def agree(checkpoint: Path, facts: Mapping[str, Any]) -> None:
    """Refuse to go on from what another run made: it would end in weights that no run has.

    Args:
        checkpoint: A whole one.
        facts: Of this run: ``recipe``, ``data`` and ``ranks``.

    Raises:
        ConfigError: If they differ; the message names the first difference.
    """
    before, now = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8")), plain(dict(facts))
    for name, value in now["recipe"].items():
        if before["recipe"].get(name) != value:
            told = before["recipe"].get(name)
            raise ConfigError(
                f"{checkpoint} was trained with {mention(name, told)}, this run has {value!r}",
                cure=f"give the same, or another {mention('output')}",
            )
    if before["ranks"] != now["ranks"]:
        raise ConfigError(
            f"{checkpoint} was written by {before['ranks']} processes, this run has {now['ranks']}",
            cure="start as many",
        )
    for part in ("data", "held_out"):
        if before[part] != now[part]:
            raise ConfigError(
                f"{checkpoint} was trained on other rows ({part})",
                cure=f"give the same file, or another {mention('output')}",
            )
