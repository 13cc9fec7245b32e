"""One optimizer step: its normalizer, over every micro-batch and every rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.ranks import reduce_over_ranks, world_size
from sftloss.training.batch.tokens import read_tokens
from sftloss.training.loss import Loss
from sftloss.training.passes import Tokens
from sftloss.weights import coefficients, group_coefficients, group_normalizers, normalizer


class Step:
    """The optimizer step that a micro-batch is part of; pass it to the model as ``num_items_in_batch``.

    It is no dataclass: the mixed precision of FSDP2 and DDP would round the fields of one to the parameters' type.

    Attributes:
        total: Z, over all micro-batches and ranks: a scalar, or one number a task.
        factors: Factor of each task, or None.
        micro_batches: How many this rank runs; what a model adds to its loss (router losses) is averaged over them.
        ranks: Ranks whose gradients will be *averaged*: the loss is multiplied by them, so that the average is the
            gradient of the sum. The step's loss is then the mean over ranks of the sum over micro-batches.
    """

    __slots__ = ("factors", "micro_batches", "ranks", "total")

    def __init__(self, total: Tensor, factors: Tensor | None = None, micro_batches: int = 1, ranks: int = 1) -> None:
        self.total, self.factors, self.micro_batches, self.ranks = total, factors, micro_batches, ranks

    def coefficients(self, tokens: Tokens) -> Float[Tensor, " tokens"]:
        """c of each token: u / Z, times the task's factor."""
        total = self.total.to(tokens.weights.device)
        if self.factors is None:
            return coefficients(tokens.weights, total)
        assert tokens.groups is not None
        return group_coefficients(tokens.weights, tokens.groups, total, self.factors.to(tokens.weights.device))


def contribution(loss: Loss, tokens: Tokens, factors: Tensor | None) -> Tensor:
    """What a micro-batch adds to Z; where Z is a number, that number."""
    by = loss.normalizer
    if not isinstance(by, str):
        return torch.tensor(float(by), dtype=torch.float64, device=tokens.weights.device)
    weights = tokens.weights
    if by == "sequences" and tokens.shares is not None:  # a sequence lies on several ranks and counts once
        weights, by = tokens.shares, "weights"
    if factors is not None and loss.task_factor.is_mean_per_task:
        assert tokens.groups is not None
        count = factors.numel()
        return group_normalizers(weights, tokens.groups, count=count, by=by, segments=tokens.segments)
    return normalizer(weights, tokens.segments, by=by)


def step_total(
    loss: Loss,
    micro_batches: Sequence[Mapping[str, Any]],
    *,
    device: torch.device | None = None,
    group: Any = None,
    copies: int = 1,
) -> Step:
    """Count the normalizer of an optimizer step: once, before its first forward pass.

    Under `torch.distributed` one all-reduce adds the ranks' contributions, so every rank calls this, also a rank with
    nothing to learn or without a micro-batch.

    Args:
        loss: The loss.
        micro_batches: All micro-batches of this rank's step, as the model will get them.
        device: Where the sum is computed; the labels' own device by default. NCCL needs the GPU.
        group: The data-parallel process group; by default every process.
        copies: How many ranks of `group` hold the same tokens: the size of the tensor-parallel group, where `group`
            is not the data-parallel one.

    Returns:
        The step; pass it to each forward pass as ``num_items_in_batch``.

    Raises:
        ValueError: If one process alone has no micro-batch, or one cannot be read.

    Example:
        >>> batch = {"labels": torch.tensor([[-100, 1, 2, 3]])}
        >>> step_total(Loss(), [batch, batch]).total
        tensor(6., dtype=torch.float64)
    """
    processes = world_size(group)
    if not micro_batches and processes == 1:
        raise ValueError("step_total: give at least one micro-batch.")
    factors, ranks = loss.task_factor.now(), processes // copies
    total = local_total(loss, micro_batches, factors)
    if not isinstance(loss.normalizer, str):
        return Step(total, factors, len(micro_batches), ranks)
    total = total.to(device or total.device)
    return Step(reduce_over_ranks(total, group=group) / copies, factors, len(micro_batches), ranks)


def local_total(loss: Loss, micro_batches: Sequence[Mapping[str, Any]], factors: Tensor | None) -> Tensor:
    """Z of this process's micro-batches; where Z is a number, that number."""
    parts = [contribution(loss, read_tokens(loss, batch), factors) for batch in micro_batches]
    parts = parts or [contribution(loss, _no_tokens(loss), factors)]
    return torch.stack(parts).sum(dim=0) if isinstance(loss.normalizer, str) else parts[0]


def _no_tokens(loss: Loss) -> Tokens:
    """The tokens of a rank without a micro-batch."""
    nothing = torch.zeros(0, dtype=torch.int64)
    groups = nothing if loss.task_factor.is_weighting else None
    return Tokens(nothing, torch.zeros(0, dtype=torch.float64), nothing, groups, {}, columns=1)
