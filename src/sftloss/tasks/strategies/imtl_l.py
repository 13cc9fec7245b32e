from __future__ import annotations

import torch

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import SMALLEST, zeros
from sftloss.tasks.strategies.strategy import Observation, State, Strategy, recorded


@recorded()
def imtl_l(*, lr: float = 0.01) -> Strategy:
    r"""Scales every loss to 1 by gradient steps: each task minimizes :math:`e^s L - s` over s, :math:`w = e^s`.

    The optimum is :math:`w_k = 1 / L_k`, that of ``uncertainty`` up to a common factor: this is its regression form
    with the sign of s turned, taken at twice the size.

    Args:
        lr: Step size on s, ``> 0``; one step each optimizer step, from the loss over all ranks.

    Returns:
        The strategy. Lagged. A loss under 1e-8, or negative, counts as 1e-8. s is no parameter of the total.

    Source:
        Liu et al., *Towards Impartial Multi-task Learning*, ICLR 2021, section 3.2 (IMTL-L).
    """
    check_range("imtl_l", lr=(lr, "> 0"))

    def observe(state: State, observation: Observation) -> State:
        slope = torch.exp(state["log_scale"]) * observation.losses.clamp(min=SMALLEST) - 1
        # one loss far above its level must not throw s past the optimum by orders of magnitude
        return {"log_scale": state["log_scale"] - (lr * slope).clamp(-1, 1)}

    return Strategy("imtl_l", zeros("log_scale"), observe, lambda state: state["log_scale"])
