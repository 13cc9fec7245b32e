from __future__ import annotations

from sftloss.tasks.strategies.strategy import SMALLEST, Rule, Strategy, check_decay, ema, strategy, zeros


def gls(*, decay: float = 0.0) -> Strategy:
    r"""Geometric loss strategy: descends :math:`(\prod_k L_k)^{1/K}`, so :math:`w_k \propto 1 / L_k`.

    The derivative is :math:`(\prod L)^{1/K} / (K L_k)`; at mean weight 1 only :math:`1 / L_k` remains. That is the
    optimum of ``uncertainty`` too: the two are one method, with and without smoothing.

    Args:
        decay: Of the exponential mean of the loss; 0 is the last step's loss.

    Returns:
        The strategy. Lagged by one step; in the paper of this step. Scale-equivariant: a loss in other units has the
        same influence. A loss under 1e-8, or negative, counts as 1e-8.

    Raises:
        ValueError: If ``decay`` is out of range.

    Gradient:
        :math:`\partial L / \partial L_k = w_k`.

    Source:
        Chennupati et al., *MultiNet++*, 2019, eq. 4 (arXiv:1904.08492).
    """
    check_decay("gls", decay)
    rule = Rule(
        lambda count: {"loss": zeros(count)},
        lambda state, observation: {"loss": ema(state["loss"], observation.losses, state["seen"], decay)},
        lambda state: -state["loss"].clamp(min=SMALLEST).log(),
    )
    return strategy("gls", rule)
