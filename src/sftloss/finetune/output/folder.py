"""The folder of a run: never another run's results lost, never two runs in one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from sftloss.errors import ConfigError, mention
from sftloss.files import locked, put_folder
from sftloss.finetune.output.checkpoint import UNFINISHED, checkpoints
from sftloss.finetune.recipe import Recipe


@dataclass(frozen=True)
class RunFolder:
    """Where the results of a run go; `stays` is False where they are not to stay."""

    root: Path
    stays: bool = True

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def unfinished(self) -> Path:
        """Where a checkpoint is written before it is one."""
        return self.checkpoints / UNFINISHED

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def history(self) -> Path:
        return self.root / "history.jsonl"

    @property
    def facts(self) -> Path:
        return self.root / "train.json"

    def taken(self) -> list[str]:
        """What an earlier run left."""
        names = [path.name for path in (self.model, self.history, self.facts) if path.exists()]
        return [*names, *(path.name for path in checkpoints(self.checkpoints)[:1])]

    def clear(self) -> None:
        """Remove an earlier run's results, and nothing that is not one's."""
        for path in checkpoints(self.checkpoints):
            shutil.rmtree(path)
        shutil.rmtree(self.unfinished, ignore_errors=True)
        for path in (self.history, self.facts):
            path.unlink(missing_ok=True)
        self._check_model()
        shutil.rmtree(self.model, ignore_errors=True)

    def put_model(self, written: Path) -> None:
        """Put a model that was written beside its place into it."""
        self._check_model()
        put_folder(written, self.model)

    def _check_model(self) -> None:
        if self.model.is_symlink() or (self.model.exists() and not self._is_model()):
            raise ConfigError(
                f"{self.model} is not a model that a run wrote",
                cure=f"remove it yourself, or choose another {mention('output')}",
            )

    def _is_model(self) -> bool:
        return any((self.model / name).is_file() for name in ("config.json", "adapter_config.json"))


@contextmanager
def folder_of(recipe: Recipe, rank: int) -> Iterator[RunFolder]:
    """The folder of a run, checked before anything is computed; the first rank holds it against other runs.

    Raises:
        ConfigError: If an earlier run's results are there and the recipe neither overwrites nor resumes, the folder
            cannot be written, or another run writes there now.
    """
    if recipe.output is None:
        with tempfile.TemporaryDirectory(prefix="sftloss-") as temporary:
            yield RunFolder(Path(temporary), stays=False)
        return
    folder = RunFolder(Path(recipe.output).expanduser())
    taken = folder.taken()
    if taken and not (recipe.overwrite or recipe.resume or recipe.resume_from):
        raise ConfigError(
            f"{folder.root} already has {', '.join(taken)}",
            cure=f"choose another {mention('output')}, {mention('overwrite')} or {mention('resume')}",
        )
    try:
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder.root} cannot be written ({error.strerror})", cure=f"choose another {mention('output')}"
        ) from None
    busy = f"{folder.root}: another run writes there now; choose another output."
    with locked(folder.root / ".lock", busy) if rank == 0 else nullcontext():
        yield folder
