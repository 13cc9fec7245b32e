from __future__ import annotations

import torch
from torch import Tensor

from sftloss.tasks.strategies.strategy import State, Strategy, recorded


@recorded(unit="free")
def rlw(*, seed: int = 0) -> Strategy:
    r"""Random loss weighting, the control: :math:`w = K \operatorname{softmax}(z)`, z standard normal, new each step.

    A method that is no better than this has shown no benefit.

    Args:
        seed: With the task's place and the step's number it fixes every draw: no random state is read or moved, so
            ranks agree and a resumed run goes on with the same numbers.

    Returns:
        The strategy. Nothing lags, because nothing is observed.

    Source:
        Lin et al., *Reasonable Effectiveness of Random Weighting*, 2022, eq. 2 (arXiv:2111.10603).
    """

    def fields(count: int) -> State:
        return {"key": torch.arange(count), "steps": torch.zeros((), dtype=torch.int64)}

    def log_weights(state: State) -> Tensor:
        return _normal(_mixed(_mixed(state["key"] + seed * 1_000_003) + state["steps"]))

    return Strategy("rlw", fields, lambda state, _: {"steps": state["steps"] + 1}, log_weights)


def _mixed(x: Tensor) -> Tensor:
    """The finalizer of splitmix64 in wrapping int64 arithmetic: a counter in, 64 well-mixed bits out."""
    x = x + -7046029254386353131  # the golden ratio, 0x9E3779B97F4A7C15
    x = (x ^ _shifted(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shifted(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # int64 shifts keep the sign; a hash must not


def _normal(bits: Tensor) -> Tensor:
    normal: Tensor = torch.special.ndtri((_shifted(bits, 12).double() + 0.5) / 2**52)  # never of 0 or 1
    return normal
