"""Which rows are behind a loss that is not a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sftloss.statistics import TokenStats
from sftloss.training._loss import Loss
from sftloss.training._tokens import Tokens

_SHOWN = 5


def say_non_finite(loss: Loss, stats: TokenStats, tokens: Tokens, coefficients: Tensor, row_ids: Any) -> str:
    """One sentence naming the rows whose loss is not finite, by the batch's `row_ids` where it has them."""
    with torch.no_grad():
        values = loss.objective(stats) * coefficients  # type: ignore[operator]
    bad = ~torch.isfinite(values) & (coefficients != 0)
    rows = torch.unique(torch.nonzero(bad)[:, 0] // tokens.columns).tolist()
    if not rows:
        return "sftloss: the loss is not finite, though every token's is; look at the weights and the normaliser."
    names = _names(rows, row_ids)
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return (
        f"sftloss: the loss is not finite at {int(bad.sum())} tokens of {', '.join(names[:_SHOWN])}{more}; look at "
        "these rows, lower the learning rate, or check the last checkpoint for NaN."
    )


def _names(rows: Sequence[int], row_ids: Any) -> list[str]:
    if row_ids is None:
        return [f"row {row} of the micro-batch (put row_ids into the batch to have them named)" for row in rows]
    ids = row_ids.tolist() if isinstance(row_ids, Tensor) else list(row_ids)
    return [str(ids[row]) if row < len(ids) else f"row {row} of the micro-batch" for row in rows]
