"""The accumulation law for a loop of one's own, on one process or under torchrun."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sftloss.ranks import rank_of, reduce_over_ranks, world_size
from sftloss.testing import accumulation as law
from sftloss.testing.report import AccumulationReport


def check_loop(
    accumulate: Callable[[nn.Module, list[dict[str, Any]]], Any],
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    tolerance: float | None = None,
) -> AccumulationReport:
    """Check a training loop against the law: k micro-batches, on any number of ranks, have the gradient of one batch.

    Under torchrun, with `torch.distributed` initialised, the rows are split over the ranks too, unevenly, and the
    gradients are averaged as DDP does (so give the model itself, not its DDP wrapper). The truth is the gradient of
    the whole batch in one micro-batch, the same on every rank.

    Args:
        accumulate: Your loop's inner part, ``accumulate(model, micro_batches)``: count what it counts, call
            `backward` on each loss, and leave the gradients in the model. No optimizer step.
        model: The model; its gradients are restored afterwards. The same weights on every rank.
        batch: At least two rows a rank, with different numbers of labels; the same batch on every rank.
        tolerance: Relative error that counts as rounding; by default that of :func:`check_accumulation`.

    Returns:
        The report, the same on every rank.

    Raises:
        ValueError: If the batch has too few rows or rows of one length, or the loop leaves no gradient.

    Example:
        >>> def accumulate(model, micro_batches):                          # doctest: +SKIP
        ...     for batch in micro_batches:
        ...         (my_loss(model, batch) / len(micro_batches)).backward()
        >>> print(check_loop(accumulate, model, batch))                    # doctest: +SKIP
        Mean of means: ...
    """
    ranks, rows = world_size(), law.row_count(batch)
    law.check_ragged(batch)
    if rows < 2 * ranks:
        raise ValueError(f"check_loop: give at least two rows a rank, got {rows} rows for {ranks} ranks.")

    def gradient(parts: Sequence[Mapping[str, Any]]) -> Tensor:
        model.zero_grad(set_to_none=True)
        accumulate(model, [dict(part) for part in parts])
        return reduce_over_ranks(law.flat_gradient(model), "mean")

    with law.borrowed(model):
        tolerance = law.tolerance_of(model) if tolerance is None else tolerance
        whole = gradient([batch])
        if not 0 < float(whole.norm()) < float("inf"):
            raise ValueError("check_loop: the whole batch leaves no finite, non-zero gradient in the model.")
        splits = []
        for sizes in law.sizes_of(rows):  # every rank the same rows: an error here is not the ranks'
            parts = law.cut_rows(batch, sizes)
            means = torch.stack([gradient([part]) for part in parts]).mean(dim=0)
            splits.append(law.judge(gradient(parts), whole, sizes, means))
        if ranks > 1:
            shares = _shares(rows, ranks)
            mine = law.cut_rows(batch, shares)[rank_of()]
            spread = [gradient([mine]), gradient(law.cut_rows(mine, (1,) * law.row_count(mine)))]
            splits += [law.judge(each, whole, shares, is_over_ranks=True) for each in spread]
    return AccumulationReport(all(s.error <= tolerance for s in splits), tuple(splits), tolerance)


def _shares(rows: int, ranks: int) -> tuple[int, ...]:
    """Rows of each rank, unequal: the first has what the others, with two each, leave, or nearly."""
    others = max(2, (rows - 1) // (ranks + 1))
    return (rows - others * (ranks - 1), *(others,) * (ranks - 1))
