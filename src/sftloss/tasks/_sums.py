"""From token losses to one sum and one count a task: all that loss-only weighting ever needs to see."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sftloss.weights import group_normalisers


def task_sums(
    losses: Float[Tensor, " tokens"], tasks: Int[Tensor, " tokens"], *, count: int, weights: Tensor | None = None
) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
    r"""Sums of one micro-batch, :math:`S_k = \sum u_i \ell_i` and :math:`N_k = \sum u_i` over the tokens of task k.

    Add both over micro-batches and ranks; divide last. Of the pass that trains: detached, so no second one is needed.

    Args:
        losses: Loss of each token, ``(tokens,)``, nats.
        tasks: Task of each token, from 0 to ``count - 1``; negative belongs to none.
        count: Number of tasks of the run, present in this micro-batch or not.
        weights: Weight u of each token, ``(tokens,)``, ``>= 0``; 1 if not given. A token of weight 0 adds nothing,
            whatever its loss is.

    Returns:
        Sums and counts, ``(tasks,)`` each, float64 (float32 where the device has none).

    Raises:
        ValueError: If the shapes differ, or on the CPU a task is out of range or a weight negative.

    Gradient:
        None: both are detached.

    Example:
        >>> task_sums(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1]), count=2)
        (tensor([4., 5.], dtype=torch.float64), tensor([2., 1.], dtype=torch.float64))
    """
    losses = losses.detach()
    if losses.shape != tasks.shape:
        raise ValueError(f"task_sums: losses have shape {tuple(losses.shape)}, tasks {tuple(tasks.shape)}.")
    if weights is None:
        weights = torch.ones_like(losses)
    counts = group_normalisers(weights, tasks, count=count)
    terms = torch.where(weights != 0, losses.to(counts.dtype) * weights.to(counts.dtype), 0)
    sums = counts.new_zeros(count + 1).index_add_(0, torch.where(tasks < 0, count, tasks.long()), terms)
    return sums[:-1], counts
