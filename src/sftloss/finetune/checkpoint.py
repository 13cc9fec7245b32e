"""Checkpoints: complete or not there, checked before a run continues from one, and tied to the run that wrote them.

The Trainer writes into a folder of another name. When all ranks have written, a manifest with the size and digest of
every file is added and the folder is renamed to ``checkpoint-N``. A run that is killed while it writes therefore
leaves its earlier checkpoints as they were, and a checkpoint that lacks something was damaged afterwards.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sftloss.errors import ConfigError, DataError, mention
from sftloss.files import plain, put_folder, read_seal, remove_own, seal, verify_folder
from sftloss.finetune.recipe import Recipe

if TYPE_CHECKING:
    from torch.optim import AdamW

_NAME = re.compile(r"checkpoint-(\d+)")


def step_of(checkpoint: Path) -> int:
    """The optimizer step in a checkpoint's name, -1 for other names."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1


def checkpoints(folder: Path) -> list[Path]:
    """Every checkpoint in the folder, the newest first."""
    there = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in there if path.is_dir() and step_of(path) >= 0), key=step_of, reverse=True)


def chosen_checkpoint(folder: Path, *, resume: bool, resume_from: str | None) -> Path | None:
    """The checkpoint to continue from, verified; None where a run starts.

    Raises:
        ConfigError: If the one named is not there.
        DataError: If it, or the newest one, is damaged.
    """
    if resume_from is not None:
        path: Path | None = folder / Path(resume_from).name
        if path is not None and not path.is_dir():
            there = ", ".join(checkpoint.name for checkpoint in checkpoints(folder)) or "none"
            raise ConfigError(f"{path} does not exist", option="resume_from", cure=f"there is {there}")
    else:
        path = next(iter(checkpoints(folder)), None) if resume else None
    if path is not None:
        verify(path)
    return path


def verify(checkpoint: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, after every file was compared with it.

    Raises:
        DataError: If a file is missing, cut off or changed; the message names it and another checkpoint.
    """
    try:
        return verify_folder(checkpoint)
    except DataError as error:
        others = [path.name for path in checkpoints(checkpoint.parent) if path != checkpoint]
        cure = f"continue from another with {mention('resume_from', others[0])}" if others else "start anew"
        raise DataError(error.problem, cure=cure) from None


class SavedAdam(NamedTuple):
    """The optimizer of a checkpoint, with its moments, and the norm to which the run clipped gradients, 0 for none."""

    optimizer: AdamW
    max_grad_norm: float

    def scale(self, norm: float, mass: float) -> float:
        """Factor of a gradient whose coefficients add up to `mass`: to that of a mean, clipped as the run clips it."""
        return min(1 / mass, (self.max_grad_norm or math.inf) / (norm or 1.0))


def saved_adam(model: Any) -> SavedAdam:
    """Read AdamW with its moments from the checkpoint that a model was loaded from; `torch.load` reads tensors alone.

    Raises:
        ConfigError: If the model is from no checkpoint of `sftloss train`, or not every parameter was trained by AdamW.
        DataError: If the checkpoint is damaged.
    """
    import torch
    from transformers import Trainer

    checkpoint, option = Path(model.name_or_path), {"option": "optimizer"}
    if not (checkpoint / "optimizer.pt").is_file():
        cure = f"give {mention('model', 'OUTPUT/checkpoints/checkpoint-N')}"
        raise ConfigError(f"{checkpoint} is no checkpoint of sftloss train: it lacks optimizer.pt", **option, cure=cure)
    recipe = verify(checkpoint)["recipe"]
    if recipe["lora"] is not None or recipe["optimizer"] not in ("adamw_torch", "adamw_torch_fused"):
        raise ConfigError(f"{checkpoint} was trained with adapters or without AdamW, so there is no u", **option)
    with_decay = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    groups: list[list[Any]] = [[], []]  # in the Trainer's order, in which the moments are
    for name, p in model.named_parameters():
        groups[name not in with_decay].append(p)
    optimizer = torch.optim.AdamW([{"params": group} for group in groups])
    optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True))
    return SavedAdam(optimizer, float(recipe["max_grad_norm"]))


def publish(unfinished: Path, target: Path, facts: Mapping[str, Any], keep: int | None, best: int = 0) -> None:
    """Add the manifest, put the folder in its place, and remove the oldest beyond `keep`, but for the step `best`."""
    seal(unfinished, facts)
    put_folder(unfinished, target)  # the same step may be there, where the run continued from an earlier one
    for old in checkpoints(target.parent)[keep:] if keep is not None else ():
        if step_of(old) != best:
            remove_own(old)


def agree(checkpoint: Path, facts: Mapping[str, Any]) -> None:
    """Refuse to continue from the checkpoint of another run: that would end in weights which no single run gives.

    Args:
        checkpoint: A verified one.
        facts: Of this run: ``recipe``, ``data``, ``held_out`` and ``ranks``.

    Raises:
        ConfigError: If they differ; the message names the first difference.
    """
    before, now = read_seal(checkpoint), plain(facts)
    other_output = f"give the same, or another {mention('output')}"
    for name, value in now["recipe"].items():
        earlier = before.get("recipe", {}).get(name, getattr(Recipe, name, None))  # a field newer than the checkpoint
        if earlier != value:
            problem = f"{checkpoint} was trained with {mention(name, earlier)}, this run has {value!r}"
            raise ConfigError(problem, cure=other_output)
    if before.get("ranks") != now["ranks"]:
        problem = f"{checkpoint} was written by {before.get('ranks')} processes, this run has {now['ranks']}"
        raise ConfigError(problem, cure="start as many")
    for part in ("data", "held_out"):
        if before.get(part) != now[part]:
            raise ConfigError(f"{checkpoint} was trained on other rows ({part})", cure=other_output)
