"""A Gramian method on the tasks that are there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from sftloss.tasks.gramian.solve import Gramian, Weights


def on_present(weighting: Callable[[Tensor], Tensor], gramian: Gramian, present: Bool[Tensor, " tasks"]) -> Weights:
    """Weights of the problem without the absent tasks; 0 for those.

    An absent task's row of zeros is no row: with it the shortest combination is exactly 0, and nobody learns.

    Args:
        weighting: Gramian to weights: one of ours, or any callable with this signature.
        gramian: ``(tasks, tasks)``; rows and columns of absent tasks may hold anything.
        present: Which tasks the step had, ``(tasks,)``.

    Returns:
        Weights ``(tasks,)``, float64.

    Example:
        >>> from sftloss.tasks.gramian import mgda
        >>> on_present(mgda, torch.diag(torch.tensor([1.0, 0.0, 1.0])), torch.tensor([True, False, True]))
        tensor([0.5000, 0.0000, 0.5000], dtype=torch.float64)
    """
    here = present.cpu().nonzero()[:, 0]
    weights = torch.zeros(len(gramian), dtype=torch.float64)
    if here.numel():
        inside = gramian.detach().to("cpu", torch.float64)[here][:, here]
        weights[here] = weighting(inside).detach().to("cpu", torch.float64)
    return weights
