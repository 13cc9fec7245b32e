"""The level a task started from."""

from __future__ import annotations

import torch
from torch import Tensor


def reference(old: Tensor, new: Tensor, seen: Tensor, steps: int) -> Tensor:
    """Mean of the first `steps` observations of each task; later ones change nothing."""
    return torch.where(seen < steps, old + (new - old) / (seen + 1), old)
