"""State in a checkpoint: tensors and plain values in one safetensors file, which is read without running code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sftloss.errors import ConfigError


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors, and values that JSON can hold.

    Raises:
        OSError: If the file cannot be written.
    """
    from safetensors.torch import save_file

    words = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
    tensors = {name: v.detach().cpu().contiguous().clone() for name, v in state.items() if name not in words}
    save_file(tensors, path, metadata={"words": json.dumps(words)})


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote.

    Raises:
        ConfigError: If the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ConfigError(f"{path} is missing from the checkpoint; continue from another one.")
    try:
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            words: dict[str, Any] = json.loads((file.metadata() or {}).get("words", "{}"))
            return tensors | words
    except (SafetensorError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({error}); continue from another checkpoint.") from None
