"""Options as records, shared between verbs, and the way from a record to the flags of a verb."""

from __future__ import annotations

from sftloss.cli.options.command import Verbosity, command
from sftloss.cli.options.records import (
    DataOptions,
    DeviceOptions,
    FolderOptions,
    LossListOptions,
    LossOptions,
    ModelOptions,
    ShowOptions,
    StepOptions,
    TrainingOptions,
)

__all__ = [
    "DataOptions",
    "DeviceOptions",
    "FolderOptions",
    "LossListOptions",
    "LossOptions",
    "ModelOptions",
    "ShowOptions",
    "StepOptions",
    "TrainingOptions",
    "Verbosity",
    "command",
]
