from __future__ import annotations

import torch

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import zeros
from sftloss.tasks.strategies.strategy import Observation, State, Strategy, recorded


@recorded()
def doremi(*, eta: float = 1.0, smoothing: float = 1e-3) -> Strategy:
    r"""The task furthest above what a reference model reaches counts most: ``group_dro`` on clipped excess losses.

    .. math:: \alpha_k \propto \alpha_k \exp\Bigl(\eta \, \frac1{N_k} \sum_{i \in k}
              \max(\ell_i - \ell_i^{\text{ref}}, 0)\Bigr), \qquad
              \alpha \leftarrow (1 - c) \, \alpha + c / K, \qquad w = K \alpha

    Args:
        eta: Step size, in 1/nats, ``> 0``.
        smoothing: c in [0, 1): no task's share falls under c/K. 1e-3 in the paper, 1e-4 in its code.

    Returns:
        The strategy; it needs the clipped excess of the step's tokens over the reference model's losses, which are one
        forward pass of that model, or were computed once and stored. Lagged by one step. The mass of the tasks present
        is shared out among them, so an absent one keeps its weight and the others do as if it did not exist.

    Source:
        Xie et al., *DoReMi: Optimizing Data Mixtures Speeds Up Language Model Pretraining*, 2023, algorithm 1
        (arXiv:2305.10429). There the mean of the weights over the run is what is kept, to sample by in a second one.
    """
    check_range("doremi", eta=(eta, "> 0"), smoothing=(smoothing, "in [0, 1)"))

    def observe(state: State, observation: Observation) -> State:
        assert observation.extra is not None  # `update` has checked it
        present = observation.present
        old = torch.where(present, state["log_share"], -torch.inf)
        share = torch.softmax(old + eta * observation.extra.clamp(min=0), 0)
        share = (1 - smoothing) * share + smoothing / present.sum().clamp(min=1)
        return {"log_share": share.log() + torch.logsumexp(old, 0)}

    return Strategy("doremi", zeros("log_share"), observe, lambda state: state["log_share"], needs="excess")
