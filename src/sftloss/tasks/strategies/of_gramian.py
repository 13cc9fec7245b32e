from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sftloss.tasks.gramian import on_present
from sftloss.tasks.strategies.strategy import Observation, Rule, State, Strategy, strategy, zeros


def of_gramian(weighting: Callable[[Tensor], Tensor], *, name: str = "of_gramian", smoothing: float = 1e-3) -> Strategy:
    r"""A method of this step's Gramian, as weights for the next step: no second backward pass, no change of ``.grad``.

    .. math:: w \propto (1 - c) \, \max(m(G), 0) + c / K

    Its guarantees (nobody is hurt, say) are those of the gradients one step back. With
    :meth:`sftloss.tasks.TaskGradients.apply` the method acts on the step itself.

    Args:
        weighting: Gramian ``(tasks, tasks)`` to weights ``(tasks,)``: one of :mod:`sftloss.tasks.gramian`, a weighting
            of TorchJD, or any such callable.
        name: In messages and checkpoints.
        smoothing: c in [0, 1): a task whose weight is 0 is not lost for ever.

    Returns:
        The strategy; it needs the Gramian. Lagged. Only the direction is the method's, the mean weight is 1; a
        negative weight counts as 0. The tasks present share out their own mass, so an absent one keeps its weight.

    Raises:
        ValueError: If ``smoothing`` is out of range.

    Gradient:
        :math:`\partial L / \partial L_k = w_k`.

    Source:
        That of the method.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"{name}: smoothing must be in [0, 1), got {smoothing}.")

    def observe(state: State, observation: Observation) -> State:
        assert observation.gramian is not None  # `strategy` has looked
        present = observed(observation)
        found = on_present(weighting, observation.gramian, present).to(state["log_share"]).clamp(min=0)
        share = torch.where(
            found.sum() > 0, found / found.sum().clamp(min=1e-300), present / present.sum().clamp(min=1)
        )
        mass = torch.logsumexp(torch.where(present, state["log_share"], -torch.inf), 0)
        return {"log_share": ((1 - smoothing) * share + smoothing / present.sum().clamp(min=1)).log() + mass}

    def observed(observation: Observation) -> Tensor:
        assert observation.gramian is not None
        squares = observation.gramian.detach().diagonal()
        return observation.present & torch.isfinite(squares) & (squares > 0)

    rule = Rule(lambda k: {"log_share": zeros(k)}, observe, lambda state: state["log_share"], observed)
    return strategy(name, rule, needs="gramian")
