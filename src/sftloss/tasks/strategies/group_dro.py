from __future__ import annotations

import torch

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import zeros
from sftloss.tasks.strategies.strategy import Observation, State, Strategy, recorded


@recorded()
def group_dro(*, eta: float = 0.01) -> Strategy:
    r"""The worst task counts most: weights climb the losses by exponentiated gradient.

    .. math:: q_k \leftarrow q_k \, e^{\eta L_k} / Z, \qquad w = K q

    Z keeps the mass of the tasks *present* in the step, so an absent one keeps its weight exactly, and the others
    divide theirs as if it did not exist.

    Args:
        eta: Step size, in 1/nats, ``> 0``. Weights never stop moving while losses differ: over n steps the ratio of
            two grows by :math:`e^{n \eta (L_i - L_j)}`, up to the bounds of the caller.

    Returns:
        The strategy. Lagged. Adding one constant to all losses changes nothing.

    Source:
        Sagawa et al., *Distributionally Robust Neural Networks for Group Shifts*, 2020, algorithm 1
        (arXiv:1911.08731).
    """
    check_range("group_dro", eta=(eta, "> 0"))

    def observe(state: State, observation: Observation) -> State:
        # all-absent: logsumexp of nothing is -inf, and -inf - -inf is NaN, which the freeze would discard anyway
        old = torch.where(observation.present, state["log_share"], -torch.inf)
        shift = torch.logsumexp(old + eta * observation.losses, 0) - torch.logsumexp(old, 0)
        return {"log_share": state["log_share"] + eta * observation.losses - shift}

    return Strategy("group_dro", zeros("log_share"), observe, lambda state: state["log_share"])
