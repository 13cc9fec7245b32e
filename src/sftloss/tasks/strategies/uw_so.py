from __future__ import annotations

from sftloss.tasks.strategies.strategy import (
    SMALLEST,
    Rule,
    Strategy,
    check_decay,
    check_positive,
    ema,
    strategy,
    zeros,
)


def uw_so(*, temperature: float = 1.0, decay: float = 0.0) -> Strategy:
    r"""Softmax of inverse losses, :math:`w = K \operatorname{softmax}(1 / (T L))`: uncertainty's optimum, tempered.

    Args:
        temperature: T, in 1/nats, ``> 0``; it has to be tuned, since the formula is not scale-free.
        decay: Of the exponential mean of the loss; 0 is the last step's loss, as in the paper.

    Returns:
        The strategy. Lagged by one step; in the paper of this step.

    Raises:
        ValueError: If a number is out of range.

    Gradient:
        :math:`\partial L / \partial L_k = w_k`; the losses in the weights are detached, as in the paper.

    Source:
        Kirchdorfer et al., *Analytical Uncertainty-Based Loss Weighting in Multi-Task Learning*, 2024
        (arXiv:2408.07985).
    """
    check_positive("uw_so", temperature=temperature)
    check_decay("uw_so", decay)
    rule = Rule(
        lambda count: {"loss": zeros(count)},
        lambda state, observation: {"loss": ema(state["loss"], observation.losses, state["seen"], decay)},
        lambda state: 1 / (temperature * state["loss"].clamp(min=SMALLEST)),
    )
    return strategy("uw_so", rule)
