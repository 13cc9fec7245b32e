"""A loss as the configuration files of other trainers spell it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sftloss.errors import ConfigError
from sftloss.training.loss import Loss

KEYS = ("objective", "normalization", "roles", "normalizer")
"""What of a loss can be written in a file."""


def loss_from(config: Any) -> Loss:
    """A loss from a string, an objective alone, or a mapping of `objective`, `normalization`, `roles` and `normalizer`.

    Raises:
        ConfigError: If a key is unknown or a value impossible.

    Example:
        >>> loss_from({"objective": "focal(gamma=2)", "normalization": "sqrt"}).alpha
        0.5
    """
    given = {"objective": config} if isinstance(config, str) else config
    if not isinstance(given, Mapping):
        raise ConfigError(f"sftloss: give an objective or a mapping of {', '.join(KEYS)}, got {config!r}.")
    unknown = sorted(set(given) - set(KEYS))
    if unknown:
        raise ConfigError(f"sftloss: unknown key {unknown[0]!r}; the loss has {', '.join(KEYS)}.")
    try:
        return Loss(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"sftloss: {error}") from error
