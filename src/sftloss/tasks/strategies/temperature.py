from __future__ import annotations

from sftloss.tasks.strategies.strategy import Rule, Strategy, check_positive, strategy, zeros


def temperature(*, temperature: float = 2.0) -> Strategy:
    r"""Between equal tasks and tasks by size: :math:`w_k \propto N_k^{1/T}`, N the tokens of the task so far.

    For means of tasks. ``T = 1`` weights every token equally, as plain training does; large T every task.

    Args:
        temperature: T, dimensionless, ``> 0``.

    Returns:
        The strategy. Lagged: the counts are those of the steps before.

    Raises:
        ValueError: If the temperature is not positive.

    Gradient:
        :math:`\partial L / \partial L_k = w_k`; no loss enters the weights.

    Source:
        Arivazhagan et al., *Massively Multilingual Neural Machine Translation in the Wild*, 2019, section 4.1
        (arXiv:1907.05019), there as sampling probabilities.
    """
    check_positive("temperature", temperature=temperature)
    rule = Rule(
        lambda count: {"size": zeros(count)},
        lambda state, observation: {"size": state["size"] + observation.counts},
        lambda state: state["size"].log() / temperature,
    )
    return strategy("temperature", rule, adaptive=False)
