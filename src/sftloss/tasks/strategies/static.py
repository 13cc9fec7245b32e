from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from sftloss.tasks.strategies.pieces import zeros
from sftloss.tasks.strategies.strategy import State, Strategy, recorded


@recorded(unit="free")
def static(*, factors: Sequence[float] | None = None) -> Strategy:
    r"""Fixed weights, :math:`w_k \propto c_k`; without factors every task has weight 1.

    The baseline that is hard to beat: well chosen fixed weights do about as well as adaptive ones.

    Args:
        factors: One factor a task, in the order of the tasks, ``>= 0``, not all 0. They are scaled to mean 1 over the
            tasks seen so far, so they shift effort between tasks and leave the learning rate alone.

    Returns:
        The strategy. Its weights follow no loss, so nothing lags and nothing is bounded.

    Raises:
        ValueError: If a factor is negative or not finite, all are 0, or there is not one a task.

    Source:
        Kurin et al., *In Defense of the Unitary Scalarization*, 2022 (arXiv:2201.04122).
    """
    if factors is not None and (not all(0 <= c < math.inf for c in factors) or not any(factors)):
        raise ValueError(f"static: factors must be finite, >= 0 and not all 0, got {list(factors)}.")

    def fields(count: int) -> State:
        if factors is None:
            return zeros("log_factor")(count)
        if len(factors) != count:
            raise ValueError(f"static: {len(factors)} factors for {count} tasks; give one a task.")
        return {"log_factor": torch.tensor(list(factors), dtype=torch.float64).log()}

    return Strategy("static", fields, lambda *_: {}, lambda state: state["log_factor"], adaptive=False)
