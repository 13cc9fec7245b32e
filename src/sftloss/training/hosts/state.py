"""What a run remembers beside what the Trainer saves, one safetensors file a rank.

The Trainer's own files (``optimizer.pt``, ``scheduler.pt``, ``rng_state*.pth``) are read by it with
``weights_only=True``, which builds tensors and plain values and runs no code.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sftloss.errors import ConfigError
from sftloss.training.attach import attachment_of

_LOG = logging.getLogger("sftloss.training")


def state_file(rank: int) -> str:
    return f"sftloss_rank{rank}.safetensors"


def save_state(trainer: Any, folder: Path, keeps: Mapping[str, Any]) -> None:
    """Write this rank's part of the log since its last line, and the state of every object in `keeps`.

    Args:
        trainer: The Trainer.
        folder: The checkpoint.
        keeps: Name to an object with `state_dict` and `load_state_dict`; values are tensors or what JSON knows.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)  # another rank may still be about to
    tensors = {
        "loss": trainer._tr_loss.detach().reshape(1),
        "last_logged": torch.tensor([trainer._globalstep_last_logged]),
    }
    words: dict[str, Any] = {}
    for name, kept in _kept(trainer, keeps).items():
        for key, value in kept.state_dict().items():
            if isinstance(value, torch.Tensor):
                tensors[f"{name}/{key}"] = value.detach()
            else:
                words[f"{name}/{key}"] = value
    tensors = {name: value.cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(tensors, folder / state_file(trainer.args.process_index), metadata={"words": json.dumps(words)})


def load_state(trainer: Any, folder: Path, keeps: Mapping[str, Any]) -> None:
    """Go on from what `save_state` wrote. To be called after the Trainer has reset its own sums.

    A checkpoint of another Trainer has no such file, and one of fewer ranks lacks some; that is told.

    Raises:
        ConfigError: If the file does not hold what this run remembers.
    """
    path = folder / state_file(trainer.args.process_index)
    if not path.is_file():
        _LOG.warning("sftloss: %s is not there, so the next line of the log is of the steps from here on.", path)
        return
    found = _found(path)
    trainer._tr_loss.copy_(found["loss"][0])
    trainer._globalstep_last_logged = int(found["last_logged"])
    for name, kept in _kept(trainer, keeps).items():
        own = {key.removeprefix(f"{name}/"): value for key, value in found.items() if key.startswith(f"{name}/")}
        if not own:
            raise ConfigError(f"{path} has no state of {name}; go on with the options of the run that wrote it.")
        kept.load_state_dict(own)


def _found(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            found: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return found | json.loads((file.metadata() or {}).get("words", "{}"))
    except (SafetensorError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}); go on from another checkpoint.") from None


def _kept(trainer: Any, keeps: Mapping[str, Any]) -> dict[str, Any]:
    return {"attachment": attachment_of(trainer.model), **keeps}
