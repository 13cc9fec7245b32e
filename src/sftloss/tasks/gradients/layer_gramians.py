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
    """The Gramian of a pass, added up from layer to layer. Ranks meet once a layer, since each has a part of the sum.

    Args:
        tasks: Number of tasks; the Gramian has one row more, for tokens of none.
        group: Of the ranks.
    """

    def __init__(self, tasks: int, group: dist.ProcessGroup | None) -> None:
        self.tasks, self.group = tasks, group
        self.found: dict[int, Tensor] = {}
        self._passes = 0

    def begin(self) -> None:
        """Says that a pass begins.

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
        """Adds the gradients of a layer.

        Raises:
            ValueError: If the layer comes twice.
        """
        if i in self.found:
            raise ValueError("TaskGradients: layerwise cannot follow a layer that the model uses twice; leave it out.")
        several = list(parts)
        rows = several[0][1].new_zeros(self.tasks + 1, *several[0][1].shape)
        for task, part in several:
            rows[task] = part
        reduce_over_ranks(rows, "mean", self.group)
        self.found[i] = rows_gramian(rows)

    def total(self) -> Float[Tensor, "tasks tasks"]:
        """Of all layers, in one order."""
        if not self.found:
            return torch.zeros(self.tasks + 1, self.tasks + 1, dtype=torch.float64)
        return torch.stack([self.found[i] for i in sorted(self.found)]).sum(0)
