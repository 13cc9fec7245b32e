from __future__ import annotations

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import log_norm, zeros
from sftloss.tasks.strategies.strategy import Observation, State, Strategy, recorded


@recorded(unit="inverse")
def gradient_balance(*, decay: float = 0.9) -> Strategy:
    r"""Every task pulls equally hard: :math:`w_k \propto 1 / \lVert g_k \rVert`. ``grad_norm`` with ``alpha = 0``.

    Args:
        decay: Of the exponential mean of :math:`\log \lVert g_k \rVert`.

    Returns:
        The strategy; it needs the Gramian, of which it reads the diagonal. Lagged. A task whose gradient is zero, or
        not finite, counts as absent in the step: it takes no weight by dividing by nothing.

    Source:
        Chen et al., *GradNorm*, 2018, eq. 2 with alpha = 0 (arXiv:1711.02257).
    """
    check_range("gradient_balance", decay=(decay, "in [0, 1)"))

    def observe(state: State, observation: Observation) -> State:
        return log_norm(state, observation, decay)

    fields = zeros("log_norm")
    return Strategy("gradient_balance", fields, observe, lambda state: -state["log_norm"], needs="gramian")
