from __future__ import annotations

from sftloss.registry import attach_record
from sftloss.tasks.strategies.formula import (
    SMALLEST,
    Formula,
    check,
    complete,
    smoothed_loss,
    zeros,
)
from sftloss.tasks.strategies.strategy import Strategy, StrategyRecord


@attach_record(StrategyRecord())
def uw_so(*, temperature: float = 1.0, decay: float = 0.0) -> Strategy:
    r"""Softmax of inverse losses, :math:`w = K \operatorname{softmax}(1 / (T L))`: uncertainty's optimum, tempered.

    Args:
        temperature: T, in 1/nats, ``> 0``; it has to be tuned, since the formula is not scale-free.
        decay: Of the exponential mean of the loss; 0 is the last step's loss, as in the paper.

    Returns:
        The strategy. Lagged by one step; in the paper of this step. The losses in the weights are detached, as there.

    Raises:
        ValueError: If a number is out of range.

    Source:
        Kirchdorfer et al., *Analytical Uncertainty-Based Loss Weighting in Multi-Task Learning*, 2024
        (arXiv:2408.07985).
    """
    check("uw_so", temperature=(temperature, "> 0"), decay=(decay, "in [0, 1)"))
    formula = Formula(
        zeros("loss"), smoothed_loss(decay), lambda state: 1 / (temperature * state["loss"].clamp(min=SMALLEST))
    )
    return complete("uw_so", formula)
