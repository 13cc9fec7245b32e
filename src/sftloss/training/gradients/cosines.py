"""Cosines between the gradients of groups of examples: which tasks or languages pull against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.training.attachment import Attachment
from sftloss.training.gradients.direction import gradient_of, inner_product
from sftloss.training.loss import Loss


def group_cosines(
    attachment: Attachment, batches: Mapping[str, Iterable[Mapping[str, Any]]], loss: Loss
) -> tuple[list[str], Float[Tensor, "groups groups"], dict[str, Tensor]]:
    """Cosines between the gradients of groups of examples, and the gradient of all of them.

    The groups' gradients are held, in float32. Batches of one group each cost no more than the whole gradient.

    Args:
        attachment: The loss at work.
        batches: By group, its batches; each names the step that all batches belong to.
        loss: The loss.
    """
    gradients = {name: gradient_of(attachment, parts, loss) for name, parts in batches.items()}
    names = list(gradients)
    gramian = torch.tensor(
        [[inner_product(gradients[a], gradients[b]) for b in names] for a in names], dtype=torch.float64
    )
    norms = gramian.diagonal().clamp(min=0).sqrt()
    cosines = gramian / torch.outer(norms, norms).clamp(min=torch.finfo(torch.float64).tiny)
    whole: dict[str, Tensor] = {}
    for gradient in gradients.values():
        whole = {name: whole[name] + value if whole else value for name, value in gradient.items()}
    return names, cosines.clamp(-1, 1), whole
