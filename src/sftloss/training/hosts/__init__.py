"""Trainers that run our losses: the HF Trainer and TRL, Axolotl, ms-swift. Nothing is patched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sftloss.errors import ConfigError
from sftloss.training.loss import Loss

_KEYS = ("objective", "normalization", "roles", "normalizer", "tolerance")  # what of a loss can be written in a file


def loss_from(config: Any) -> Loss:
    """A loss from a configuration file: a string, which is the objective, or a mapping of `objective`,
    `normalization`, `roles`, `normalizer` and `tolerance`.

    Raises:
        ConfigError: If a key is unknown or a value impossible.

    Example:
        >>> loss_from({"objective": "focal(gamma=2)", "normalization": "sqrt"}).alpha
        0.5
    """
    options = {"objective": config} if isinstance(config, str) else config
    if not isinstance(options, Mapping):
        raise ConfigError(f"sftloss: give an objective or a mapping of {', '.join(_KEYS)}, got {config!r}.")
    unknown = sorted(set(options) - set(_KEYS))
    if unknown:
        raise ConfigError(f"sftloss: unknown key {unknown[0]!r}; the loss has {', '.join(_KEYS)}.")
    try:
        return Loss(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"sftloss: {error}") from error


__all__ = ["loss_from"]
