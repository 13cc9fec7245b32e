from __future__ import annotations

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import log, smoothed_loss, zeros
from sftloss.tasks.strategies.strategy import Strategy, recorded


@recorded(unit="inverse")
def gls(*, decay: float = 0.0) -> Strategy:
    r"""Geometric loss strategy: descends :math:`(\prod_k L_k)^{1/K}`, so :math:`w_k \propto 1 / L_k`.

    The derivative is :math:`(\prod L)^{1/K} / (K L_k)`; at mean weight 1 only :math:`1 / L_k` remains. That is the
    optimum of ``uncertainty`` too: the two are one method, with and without smoothing.

    Args:
        decay: Of the exponential mean of the loss; 0 is the last step's loss.

    Returns:
        The strategy. Lagged by one step; in the paper of this step. A loss under 1e-8, or negative, counts as 1e-8.

    Source:
        Chennupati et al., *MultiNet++*, 2019, eq. 4 (arXiv:1904.08492).
    """
    check_range("gls", decay=(decay, "in [0, 1)"))
    return Strategy("gls", zeros("loss"), smoothed_loss(decay), lambda state: -log(state["loss"]))
