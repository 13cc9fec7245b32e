"""Cross-entropy of rows of logits and its gradient, each in one pass over a row; see README.md."""

from typing import NamedTuple

import torch

from .kernels import _read, _width, _write

__all__ = ["RowState", "cross_entropy", "cross_entropy_backward_"]


class RowState(NamedTuple):
    """Three numbers of each row, float32 or float64, with m the largest logit beside the target's.

    Attributes:
        m: The largest logit but the target's, ``(rows,)``.
        total: The sum of exp(z - m) over all but the target, ``(rows,)``.
        target: The target's logit, ``(rows,)``.
    """

    m: torch.Tensor
    total: torch.Tensor
    target: torch.Tensor


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> "tuple[torch.Tensor, RowState]":
    """Return the cross-entropy of each row, in nats, and what its gradient needs.

    Args:
        logits: ``(rows, vocabulary)``, the columns of a row side by side.
        targets: ``(rows,)``, indices of columns.
    """
    count, columns = _check(logits, targets)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    state = RowState(
        *(torch.full((count,), fill, dtype=dtype, device=logits.device) for fill in (float("-inf"), 0.0, 0.0))
    )
    if count:
        sums = (state.m, state.total, state.target, None, None, None, None)
        _read[(count,)](logits, logits.stride(0), None, targets, 0, *sums, **_options(columns))
    return torch.nn.functional.softplus(state.m + state.total.log() - state.target), state


def cross_entropy_backward_(
    logits: torch.Tensor, targets: torch.Tensor, state: RowState, upstream: torch.Tensor
) -> torch.Tensor:
    """Write the gradient of ``sum(upstream * cross_entropy)`` over the logits, and return them.

    Args:
        logits: Those that `cross_entropy` read; they are overwritten.
        targets: The same as there.
        state: What it returned.
        upstream: Weight of each row, ``(rows,)``.
    """
    count, columns = _check(logits, targets)
    if count:
        wrong = torch.sigmoid(state.m + state.total.log() - state.target) * upstream  # 1 - p of the target, weighted
        values = (state.m, 1 / state.total, wrong, -wrong, None, None, None)
        values = [value if value is None else value.to(state.m.dtype).contiguous() for value in values]
        grid = (count, -(-columns // _width(columns)))
        _write[grid](logits, logits.stride(0), None, targets, 0, logits, logits.stride(0), *values, **_options(columns))
    return logits


def _check(logits: torch.Tensor, targets: torch.Tensor) -> "tuple[int, int]":
    if logits.ndim != 2 or logits.stride(1) != 1 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"sftloss_rows: logits {tuple(logits.shape)} must be rows, targets {tuple(targets.shape)} one a row"
        )
    return logits.shape[0], logits.shape[1]


def _options(columns: int) -> "dict[str, float]":
    return {"SCALE": 1.0, "CAP": 0.0, "COLUMNS": columns, "BLOCK": _width(columns), "num_warps": 8}
