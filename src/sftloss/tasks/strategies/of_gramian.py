"""Methods on the Gramian as strategies."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sftloss.tasks.gramian import on_present
from sftloss.tasks.strategies.formula import Formula, check, complete, zeros
from sftloss.tasks.strategies.strategy import Observation, State, Strategy


def of_gramian(weighting: Callable[[Tensor], Tensor], *, name: str = "of_gramian", smoothing: float = 1e-3) -> Strategy:
    r"""A method of this step's Gramian, as weights for the next step: no second backward pass, no change of ``.grad``.

    .. math:: w \propto (1 - c) \, \max(m(G), 0) + c / K

    Its guarantees (that no task is hurt, for example) are those of the gradients one step back. To let it act on the
    step itself, give :meth:`Strategy.weights_of_step` to :meth:`sftloss.tasks.TaskGradients.apply`.

    Args:
        weighting: Gramian ``(tasks, tasks)`` to weights ``(tasks,)``: one of ours, a weighting of TorchJD, or any such
            callable.
        name: In messages and checkpoints.
        smoothing: c in [0, 1): a task whose weight is 0 is not lost for ever.

    Returns:
        The strategy; it needs the Gramian. Lagged. Only the direction is the method's, the mean weight is 1; a
        negative weight counts as 0. The tasks present share out their own mass, so an absent one keeps its weight.

    Raises:
        ValueError: If ``smoothing`` is out of range.

    Source:
        That of the method.
    """
    check(name, smoothing=(smoothing, "in [0, 1)"))

    def observe(state: State, observation: Observation) -> State:
        assert observation.gramian is not None  # `complete` has checked it
        present = observation.has_gradient
        equal = present / present.sum().clamp(min=1)
        raw = on_present(weighting, observation.gramian, present).to(state["log_share"]).clamp(min=0)
        share = torch.where(raw.sum() > 0, raw / raw.sum().clamp(min=1e-300), equal)
        mass = torch.logsumexp(torch.where(present, state["log_share"], -torch.inf), 0)
        return {"log_share": ((1 - smoothing) * share + smoothing / present.sum().clamp(min=1)).log() + mass}

    formula = Formula(
        zeros("log_share"),
        observe,
        lambda state: state["log_share"],
        lambda observation: observation.has_gradient,
    )
    return complete(name, formula, needs="gramian", method=weighting)
