"""Which of several processes this one is, as torchrun and other launchers say in the environment."""

from __future__ import annotations

import os

from sftloss.errors import ConfigError


def shard_of_environment() -> tuple[int, int]:
    """``(rank, world size)``; ``(0, 1)`` where no launcher started this process.

    Raises:
        ConfigError: If the launcher says something impossible.
    """
    rank, world = _number("RANK", 0), _number("WORLD_SIZE", 1)
    if not 0 <= rank < world:
        raise ConfigError(f"RANK={rank} and WORLD_SIZE={world} in the environment: a rank is below the world size.")
    return rank, world


def device_of_rank(device: str) -> str:
    """``cuda`` is this rank's own card; anything else stays as said."""
    return f"cuda:{_number('LOCAL_RANK', 0)}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


def _number(name: str, default: int) -> int:
    said = os.environ.get(name, "")
    if not said:
        return default
    if not said.isdigit():
        raise ConfigError(f"{name}={said[:40]!r} in the environment is no number; unset it, or start with torchrun.")
    return int(said)
