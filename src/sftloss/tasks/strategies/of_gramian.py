"""Methods on the Gramian as strategies."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

import torch
from torch import Tensor

from sftloss.errors import check_range
from sftloss.tasks.gramian import Weights, on_present
from sftloss.tasks.strategies.pieces import zeros
from sftloss.tasks.strategies.strategy import Observation, State, Strategy, StrategyRecord


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

    Source:
        That of the method.
    """
    check_range(name, smoothing=(smoothing, "in [0, 1)"))

    def observe(state: State, observation: Observation) -> State:
        assert observation.gramian is not None  # `update` has checked it
        present = observation.has_gradient
        equal = present / present.sum().clamp(min=1)
        raw = on_present(weighting, observation.gramian, present).to(state["log_share"]).clamp(min=0)
        share = torch.where(raw.sum() > 0, raw / raw.sum().clamp(min=1e-300), equal)
        mass = torch.logsumexp(torch.where(present, state["log_share"], -torch.inf), 0)
        return {"log_share": ((1 - smoothing) * share + smoothing / present.sum().clamp(min=1)).log() + mass}

    fields = zeros("log_share")
    return Strategy(name, fields, observe, lambda state: state["log_share"], needs="gramian", method=weighting)


class GramianMethod:
    """A method on the Gramian: ``mgda()`` makes the strategy, ``mgda.weights(gramian)`` is the method itself.

    A decorator for a function from a Gramian ``(tasks, tasks)``, and keyword-only hyper-parameters, to weights
    ``(tasks,)``. The strategy takes the same hyper-parameters, and the `smoothing` of :func:`of_gramian`.

    Attributes:
        weights: The function.
        record: What marks it as a strategy of this room.
    """

    __name__: str

    def __init__(self, weights: Callable[..., Weights]) -> None:
        update_wrapper(self, weights)
        self.weights, self.record = weights, StrategyRecord()
        _, *own = inspect.signature(weights).parameters.values()
        _, *shared = inspect.signature(GramianMethod.__call__).parameters.values()
        self.__signature__ = inspect.Signature([*own, shared[0]])

    def __call__(self, *, smoothing: float = 1e-3, **hyper: Any) -> Strategy:
        """Make the strategy."""
        method = partial(self.weights, **hyper) if hyper else self.weights
        method(torch.eye(2))  # a wrong hyper-parameter is refused here and not in the first step
        return of_gramian(method, name=self.__name__, smoothing=smoothing)
