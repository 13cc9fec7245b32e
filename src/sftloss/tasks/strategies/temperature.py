from __future__ import annotations

from sftloss.registry import attach_record
from sftloss.tasks.strategies.formula import Formula, check, complete, zeros
from sftloss.tasks.strategies.strategy import Strategy, StrategyRecord


@attach_record(StrategyRecord(unit="free"))
def temperature(*, temperature: float = 2.0) -> Strategy:
    r"""Between equal tasks and tasks by size: :math:`w_k \propto N_k^{1/T}`, N the tokens of the task so far.

    For means of tasks. ``T = 1`` weights every token equally, as plain training does; large T every task.

    Args:
        temperature: T, dimensionless, ``> 0``.

    Returns:
        The strategy. Lagged: the counts are those of the steps before. No loss enters the weights.

    Raises:
        ValueError: If the temperature is not positive.

    Source:
        Arivazhagan et al., *Massively Multilingual Neural Machine Translation in the Wild*, 2019, section 4.1
        (arXiv:1907.05019), there as sampling probabilities.
    """
    check("temperature", temperature=(temperature, "> 0"))
    formula = Formula(
        zeros("size"),
        lambda state, observation: {"size": state["size"] + observation.counts},
        lambda state: state["size"].log() / temperature,
    )
    return complete("temperature", formula, adaptive=False)
