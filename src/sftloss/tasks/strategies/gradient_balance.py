from __future__ import annotations

from sftloss.registry import attach_record
from sftloss.tasks.strategies.formula import Formula, check, complete, log_norm, zeros
from sftloss.tasks.strategies.strategy import Strategy, StrategyRecord


@attach_record(StrategyRecord(unit="inverse"))
def gradient_balance(*, decay: float = 0.9) -> Strategy:
    r"""Every task pulls equally hard: :math:`w_k \propto 1 / \lVert g_k \rVert`. ``grad_norm`` with ``alpha = 0``.

    Args:
        decay: Of the exponential mean of :math:`\log \lVert g_k \rVert`.

    Returns:
        The strategy; it needs the Gramian, of which it reads the diagonal. Lagged. A task whose gradient is zero, or
        not finite, counts as absent in the step: it takes no weight by dividing by nothing.

    Raises:
        ValueError: If ``decay`` is out of range.

    Source:
        Chen et al., *GradNorm*, 2018, eq. 2 with alpha = 0 (arXiv:1711.02257).
    """
    check("gradient_balance", decay=(decay, "in [0, 1)"))

    formula = Formula(
        zeros("log_norm"),
        lambda state, observation: log_norm(state, observation, decay),
        lambda state: -state["log_norm"],
        lambda observation: observation.has_gradient,
    )
    return complete("gradient_balance", formula, needs="gramian")
