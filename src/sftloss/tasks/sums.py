"""From token losses to one sum and one count a task, which is all that loss-only weighting needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sftloss.weights import group_normalizers


def task_sums(
    losses: Float[Tensor, " tokens"], tasks: Int[Tensor, " tokens"], *, count: int, weights: Tensor | None = None
) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
    r"""Sums of one micro-batch, :math:`S_k = \sum u_i \ell_i` and :math:`N_k = \sum u_i` over the tokens of task k.

    Add both over micro-batches and ranks; divide last. They come from the pass that trains, so no second one is needed.

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
    counts = group_normalizers(weights, tasks, count=count)
    terms = torch.where(weights != 0, losses.to(counts.dtype) * weights.to(counts.dtype), 0)
    sums = counts.new_zeros(count + 1).index_add_(0, torch.where(tasks < 0, count, tasks.long()), terms)
    return sums[:-1], counts


def checked_means(losses: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Check mean losses by task."""
    unknown = sorted(set(losses) - set(names))
    if unknown:
        raise ValueError(f"MultiTaskLoss: unknown task {unknown[0]!r}; the tasks are {', '.join(names)}.")
    bad = [name for name, loss in losses.items() if loss.dim()]
    if bad:
        raise ValueError(f"MultiTaskLoss: the loss of {bad[0]!r} must be a scalar; give token losses with task_ids.")


def sums_of_means(losses: Mapping[str, Tensor], names: Sequence[str], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums and counts of mean losses by name, each of which counts as one, as tensors like `like`."""
    checked_means(losses, names)
    zero, one = like.new_zeros(()), like.new_ones(())
    seen = [losses[name].detach().to(zero) if name in losses else zero for name in names]
    return torch.stack(seen), torch.stack([one if name in losses else zero for name in names])


def flat_tokens(losses: Tensor, ids: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return losses, tasks and weights of tokens, one axis each; tasks may be given by row, weights default to 1."""
    if ids.dim() == losses.dim() - 1 and ids.shape == losses.shape[:-1]:
        ids = ids[..., None].expand(losses.shape)
    if ids.shape != losses.shape or (weights is not None and weights.shape != losses.shape):
        shapes = [tuple(x.shape) for x in (losses, ids) + (() if weights is None else (weights,))]
        raise ValueError(f"MultiTaskLoss: losses, task_ids and weights have shapes {shapes}; they must be equal.")
    u = torch.ones_like(losses, dtype=torch.float32) if weights is None else weights
    return losses.reshape(-1), ids.reshape(-1), u.detach().reshape(-1)


def zero_nonfinite(losses: Tensor, ids: Tensor | None, *, count: int) -> Tensor:
    """Replace the losses of a task with a loss that is not finite by 0; without ids each loss is a task."""
    bad = ~torch.isfinite(losses)
    if ids is not None:
        slots = torch.zeros(count + 1, device=losses.device)
        slot = torch.where(ids < 0, count, ids.long())
        bad = slots.index_add_(0, slot, bad.to(slots.dtype))[slot] > 0
    return torch.where(bad, 0, losses)
