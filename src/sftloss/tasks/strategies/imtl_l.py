from __future__ import annotations

import torch
from torch import Tensor

from sftloss.tasks.strategies.strategy import (
    SMALLEST,
    Observation,
    Rule,
    State,
    Strategy,
    check_positive,
    strategy,
    zeros,
)


def imtl_l(*, lr: float = 0.01) -> Strategy:
    r"""Scales every loss to 1 by gradient steps: each task minimises :math:`e^s L - s` over s, :math:`w = e^s`.

    The optimum is :math:`w_k = 1 / L_k`, that of ``uncertainty`` up to a common factor: this is its regression form
    with the sign of s turned, taken at twice the size.

    Args:
        lr: Step size on s, ``> 0``; one step each optimizer step, from the loss over all ranks.

    Returns:
        The strategy. Lagged. A loss under 1e-8, or negative, counts as 1e-8.

    Raises:
        ValueError: If ``lr`` is not positive.

    Gradient:
        :math:`\partial L / \partial L_k = w_k`; s is no parameter of the total.

    Source:
        Liu et al., *Towards Impartial Multi-task Learning*, ICLR 2021, section 3.2 (IMTL-L).
    """
    check_positive("imtl_l", lr=lr)

    def observe(state: State, observation: Observation) -> dict[str, Tensor]:
        slope = torch.exp(state["log_scale"]) * observation.losses.clamp(min=SMALLEST) - 1
        # one loss far above its level must not throw s past the optimum by orders of magnitude
        return {"log_scale": state["log_scale"] - (lr * slope).clamp(-1, 1)}

    rule = Rule(lambda count: {"log_scale": zeros(count)}, observe, lambda state: state["log_scale"])
    return strategy("imtl_l", rule)
