"""The output folder of a run: earlier results are replaced only by finished ones, and two runs never share it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftloss.errors import ConfigError, mention
from sftloss.files import (
    OptionPath,
    check_outputs,
    json_lines,
    locked,
    put_folder,
    remove_own,
    seal,
    strangers,
    write_atomic,
    write_json,
)
from sftloss.finetune.checkpoint import checkpoints
from sftloss.finetune.recipe import Recipe
from sftloss.models import read_places

RUN_RESULTS = ("model", "history.jsonl", "train.json", "curve.html", "checkpoints", ".next")
"""The files and folders of a run, in its output folder."""

_NEXT = ".next"


@dataclass(frozen=True)
class RunFolder:
    """Where the results of a run go.

    A run that replaces an earlier one works in the folder ``.next`` beside the earlier results. They are replaced when
    the run has ended; until then they stay as they are.

    Attributes:
        root: The output folder.
        work: Where checkpoints and history are written: `root`, or ``.next`` in it.
        stays: Whether the results are to stay.
    """

    root: Path
    work: Path
    stays: bool = True

    @property
    def checkpoints(self) -> Path:
        return self.work / "checkpoints"

    @property
    def unfinished(self) -> Path:
        """Where a checkpoint, or at the end the model, is written before it is put in its place."""
        return self.checkpoints / ".unfinished"

    @property
    def history(self) -> Path:
        return self.work / "history.jsonl"

    def clear(self) -> None:
        """Remove what an unfinished run left here: the run that begins starts over."""
        shutil.rmtree(self.unfinished, ignore_errors=True)
        for path in checkpoints(self.checkpoints):
            remove_own(path)
        self.history.unlink(missing_ok=True)

    def finish(self, history: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
        """Put the model from `unfinished` and the files of a finished run in their places, the facts last."""
        _refuse_strangers(self.root / "model")
        seal(self.unfinished)
        put_folder(self.unfinished, self.root / "model")
        write_atomic(self.root / "history.jsonl", json_lines(history))
        write_json(self.root / "train.json", facts)
        if self.work != self.root:
            replaced = Path(tempfile.mkdtemp(prefix="replaced-", dir=self.work))
            if (self.root / "checkpoints").exists():
                os.replace(self.root / "checkpoints", replaced / "checkpoints")
            os.replace(self.checkpoints, self.root / "checkpoints")
            self.history.unlink(missing_ok=True)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what earlier runs left behind: replaced results, a model that was being replaced."""
        for path in self.root.glob(".model.*.old"):
            remove_own(path)
        for replaced in (self.root / _NEXT).glob("replaced-*"):
            for path in checkpoints(replaced / "checkpoints"):
                remove_own(path)
            for path in replaced.glob("checkpoints/*"):  # no run wrote it: it goes back where it was
                if not (self.root / "checkpoints" / path.name).exists():
                    os.replace(path, self.root / "checkpoints" / path.name)
            for folder in (replaced / "checkpoints", replaced):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
        if (self.root / _NEXT).is_dir() and not any((self.root / _NEXT).iterdir()):
            (self.root / _NEXT).rmdir()


@contextmanager
def folder_of(recipe: Recipe, rank: int) -> Iterator[RunFolder]:
    """The folder of a run, checked before anything is computed; the first rank locks it against other runs.

    Raises:
        ConfigError: If an earlier run's results are there and the recipe neither overwrites nor resumes, the folder
            holds something else or an input in their places, cannot be written, or another run writes there now.
    """
    if recipe.output is None:
        with tempfile.TemporaryDirectory(prefix="sftloss-") as temporary:
            yield RunFolder(Path(temporary), Path(temporary), stays=False)
        return
    root = Path(recipe.output).expanduser()
    inputs = [
        place
        for option in ("model", "tokenizer", "data", "eval_data")
        for place in read_places(option, getattr(recipe, option) or "")
    ]
    check_outputs(inputs, [OptionPath("output", root / name) for name in RUN_RESULTS])
    other = f"choose another {mention('output')}"
    taken = _taken(root)
    if taken and not (recipe.overwrite or recipe.resume or recipe.resume_from):
        cure = f"{other}, or add {mention('overwrite', True)} or {mention('resume', True)}"
        raise ConfigError(f"{root} already has {', '.join(taken)}", cure=cure)
    _refuse_strangers(root / "model", *(checkpoints(root / "checkpoints") if recipe.overwrite else ()))
    is_next = bool(taken) if recipe.overwrite else _has_unfinished(root)
    folder = RunFolder(root, root / _NEXT if is_next else root)
    try:  # a run of an hour must not end in a folder that cannot be written
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise ConfigError(f"{root} cannot be written ({error.strerror})", cure=other) from None
    busy = ConfigError(f"{root}: another run writes there now", cure=other)
    with locked(root / ".lock", busy) if rank == 0 else nullcontext():
        folder.checkpoints.mkdir(parents=True, exist_ok=True)  # after the lock: a refused run leaves nothing
        try:
            yield folder
        except BaseException:
            if rank == 0 and not checkpoints(folder.checkpoints):
                if is_next:
                    shutil.rmtree(folder.work, ignore_errors=True)
                with suppress(OSError):  # it is not empty, or gone
                    folder.checkpoints.rmdir()
            raise


def _taken(root: Path) -> list[str]:
    """The results of an earlier run, by name."""
    names = [name for name in ("model", "history.jsonl", "train.json") if (root / name).exists()]
    names += [path.name for path in checkpoints(root / "checkpoints")[:1]]
    return names + [f"{_NEXT} (an unfinished run)"] * _has_unfinished(root)


def _has_unfinished(root: Path) -> bool:
    """Whether a run that was to replace another has left something to continue from."""
    return bool(checkpoints(root / _NEXT / "checkpoints"))


def _refuse_strangers(*places: Path) -> None:
    """Refuse folders in which files that no run wrote would be lost when the run replaces them."""
    for place in places:
        if place.is_symlink():
            raise ConfigError(f"{place} is a link", cure=f"remove it, or choose another {mention('output')}")
        others = strangers(place) if place.exists() else []
        if others:
            problem = f"{place} has files that no run wrote ({', '.join(others[:3])})"
            raise ConfigError(problem, cure=f"move them, or choose another {mention('output')}")
