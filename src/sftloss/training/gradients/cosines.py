"""Cosines between the gradients of groups of examples: which tasks or languages pull against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def cosines_between(gradients: Sequence[Mapping[str, Tensor]]) -> Float[Tensor, "groups groups"]:
    """Cosines between the gradients of groups, in float64; 0 where a gradient is zero.

    Args:
        gradients: Of each group, its gradient by name of the parameter.
    """
    gramian = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    for name in gradients[0]:
        rows = torch.stack([of[name].flatten().double() for of in gradients])
        gramian += (rows @ rows.T).cpu()
    norms = gramian.diagonal().clamp(min=0).sqrt()
    return (gramian / torch.outer(norms, norms).clamp(min=torch.finfo(torch.float64).tiny)).clamp(-1, 1)
