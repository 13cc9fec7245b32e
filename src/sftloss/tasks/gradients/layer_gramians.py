"""Gramians layer by layer, so that no more than one layer's gradients are held by task."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from sftloss.ranks import reduce_over_ranks


def rows_gramian(rows: Float[Tensor, "tasks ..."]) -> Float[Tensor, "tasks tasks"]:
    """Inner products of the rows, each taken as one vector; float64."""
    flat = rows.flatten(1).double()
    return flat @ flat.T


class LayerGramians:
    """The Gramian of one pass, summed over layers. Each layer needs one collective: each rank has a part of its sum.

    Args:
        tasks: Number of tasks; the Gramian has one row more, for tokens of none.
        group: Of the ranks.
    """

    def __init__(self, tasks: int, group: dist.ProcessGroup | None) -> None:
        self.tasks, self.group = tasks, group
        self.gramians: dict[int, Tensor] = {}
        self._passes = 0

    def begin(self) -> None:
        """Begin a pass.

        Raises:
            ValueError: If it is the step's second.
        """
        self._passes += 1
        if self._passes > 1:
            raise ValueError(
                "TaskGradients: layerwise takes one pass a step, because Gramians of micro-batches do not add up; call "
                "zero() after a step, and accumulate no gradients."
            )

    def take(self, i: int, parts: Iterable[tuple[int, Tensor]]) -> None:
        """Add the gradients of a layer.

        Raises:
            ValueError: If the layer comes twice.
        """
        if i in self.gramians:
            raise ValueError("TaskGradients: layerwise cannot follow a layer that the model uses twice; leave it out.")
        gradients = list(parts)
        rows = gradients[0][1].new_zeros(self.tasks + 1, *gradients[0][1].shape)
        for task, gradient in gradients:
            rows[task] = gradient
        self.gramians[i] = rows_gramian(reduce_over_ranks(rows, "mean", self.group))

    def total(self) -> Float[Tensor, "tasks tasks"]:
        """Return the Gramian of all layers, added in one order."""
        if not self.gramians:
            return torch.zeros(self.tasks + 1, self.tasks + 1, dtype=torch.float64)
        return torch.stack([self.gramians[i] for i in sorted(self.gramians)]).sum(0)
