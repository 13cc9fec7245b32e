"""Axolotl with any loss. In its YAML::

    plugins:
      - sftloss.training.hosts.axolotl.SftlossPlugin
    sftloss:
      objective: cross_entropy + 1e-4 * z_loss
      normalization: sqrt

The interface is that of axolotl 0.19.0 (`integrations/base.py`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sftloss.errors import ConfigError
from sftloss.training.hosts import loss_from
from sftloss.training.hosts.trainer import with_loss

_Plugin: Any = object
_Arguments: Any = object
with suppress(ImportError):  # both are there only where Axolotl is
    _Plugin = importlib.import_module("axolotl.integrations.base").BasePlugin
    _Arguments = importlib.import_module("pydantic").BaseModel

SECOND_LOSSES = (
    "use_eaft",
    "use_dft",
    "chunked_cross_entropy",
    "cut_cross_entropy",
    "liger_cross_entropy",
    "liger_fused_linear_cross_entropy",
    "label_smoothing_factor",
)
"""Keys of its configuration that bring a loss of their own."""


class SftlossArgs(_Arguments):
    """The key `sftloss`, for Axolotl's check of its file."""

    sftloss: str | dict[str, Any] | None = None


class SftlossPlugin(_Plugin):
    """The loss of the key `sftloss`, in Axolotl's trainer."""

    def get_input_args(self) -> str:
        return f"{__name__}.SftlossArgs"

    def register(self, cfg: Mapping[str, Any]) -> None:
        check_config(cfg)

    def get_trainer_cls(self, cfg: Mapping[str, Any]) -> Any:
        check_config(cfg)
        return axolotl_trainer(cfg)


def check_config(cfg: Mapping[str, Any]) -> None:
    """Refuse a configuration that cannot mean one loss.

    Raises:
        ConfigError: If the loss is impossible, a second one is asked for, or packing would make lengths unknown.
    """
    if cfg.get("sftloss") is None:
        return
    loss = loss_from(cfg["sftloss"])
    if loss.roles is not None:
        raise ConfigError("sftloss: the batches of axolotl hold labels and no roles; leave roles out, its labels stay.")
    for key in SECOND_LOSSES:
        if cfg.get(key):
            raise ConfigError(f"sftloss: {key} is a second loss; leave it out, the loss of sftloss is fused.")
    if cfg.get("sample_packing") and (loss.alpha or loss.normalizer == "sequences"):
        # its packed rows come with an attention mask, which does not separate sequences
        raise ConfigError(
            "sftloss: normalization by length and normalizer: sequences need separate rows; set sample_packing: false."
        )


def axolotl_trainer(cfg: Mapping[str, Any]) -> Any:
    """Axolotl's own trainer, or the one `trainer_cls` names, with the loss of the configuration; None without one."""
    if cfg.get("sftloss") is None:
        return None
    module, _, name = (cfg.get("trainer_cls") or "axolotl.core.trainers.base.AxolotlTrainer").rpartition(".")
    return with_loss(getattr(importlib.import_module(module), name), loss_from(cfg["sftloss"]))


__all__ = ["SECOND_LOSSES", "SftlossArgs", "SftlossPlugin", "axolotl_trainer", "check_config"]
