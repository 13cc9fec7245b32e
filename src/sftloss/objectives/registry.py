"""Every objective by name. A literal dict: what is not written here does not exist."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sftloss.objectives.cross_entropy import cross_entropy
from sftloss.objectives.dft import dft
from sftloss.objectives.entropy_bonus import entropy_bonus
from sftloss.objectives.focal import focal
from sftloss.objectives.label_smoothing import label_smoothing
from sftloss.objectives.poly_1 import poly_1
from sftloss.objectives.z_loss import z_loss

OBJECTIVES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "label_smoothing": label_smoothing,
    "focal": focal,
    "poly_1": poly_1,
    "dft": dft,
    "z_loss": z_loss,
    "entropy_bonus": entropy_bonus,
}
