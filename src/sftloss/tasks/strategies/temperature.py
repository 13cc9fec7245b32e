from __future__ import annotations

from torch import Tensor

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import zeros
from sftloss.tasks.strategies.strategy import Observation, State, Strategy, recorded


@recorded(unit="free")
def temperature(*, temperature: float = 2.0) -> Strategy:
    r"""Between equal tasks and tasks by size: :math:`w_k \propto N_k^{1/T}`, N the tokens of the task so far.

    For means of tasks. ``T = 1`` weights every token equally, as plain training does; large T every task.

    Args:
        temperature: T, dimensionless, ``> 0``.

    Returns:
        The strategy. Lagged: the counts are those of the steps before. No loss enters the weights.

    Source:
        Arivazhagan et al., *Massively Multilingual Neural Machine Translation in the Wild*, 2019, section 4.1
        (arXiv:1907.05019), there as sampling probabilities.
    """
    check_range("temperature", temperature=(temperature, "> 0"))

    def observe(state: State, observation: Observation) -> State:
        return {"size": state["size"] + observation.counts}

    def log_weights(state: State) -> Tensor:
        return state["size"].log() / temperature

    return Strategy("temperature", zeros("size"), observe, log_weights, adaptive=False)
