"""Task weights as pure mathematics: ``init(K) -> state``, ``update(state, observation) -> state``, ``weights(state)``.

Each strategy is one file of this room, which holds the function, its docstring and its record; lists, the documentation
page and the tests of the laws are made from these files. ``python -m sftloss.tasks`` rewrites the page and the imports
for type checkers below.

What holds for all is in :class:`Strategy`: a task absent from a step keeps its state; weights have mean 1 over the
tasks seen so far, so that no strategy changes the learning rate on the side; and weights are detached,
:math:`\\partial L / \\partial L_k = w_k`. They are lagged: those of a step follow from the steps before. A
hyper-parameter outside of the range in its docstring is a ``ValueError``. ::

    chosen = uncertainty(kind="classification")
    state = chosen.init(2)
    state = chosen.update(state, Observation(losses=torch.tensor([2.0, 0.5]), counts=torch.tensor([80, 20])))
    chosen.weights(state)          # for the next step
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sftloss.registry import functions_with_records
from sftloss.tasks.strategies.of_gramian import of_gramian
from sftloss.tasks.strategies.strategy import EXTRA, Observation, State, Strategy, StrategyRecord

if TYPE_CHECKING:
    # begin strategies (written by `python -m sftloss.tasks`)
    from sftloss.tasks.strategies.aligned_mtl import aligned_mtl as aligned_mtl
    from sftloss.tasks.strategies.cagrad import cagrad as cagrad
    from sftloss.tasks.strategies.coba import coba as coba
    from sftloss.tasks.strategies.difficulty_adaptive import difficulty_adaptive as difficulty_adaptive
    from sftloss.tasks.strategies.doremi import doremi as doremi
    from sftloss.tasks.strategies.dwa import dwa as dwa
    from sftloss.tasks.strategies.fairgrad import fairgrad as fairgrad
    from sftloss.tasks.strategies.famo import famo as famo
    from sftloss.tasks.strategies.focal_dtp import focal_dtp as focal_dtp
    from sftloss.tasks.strategies.gls import gls as gls
    from sftloss.tasks.strategies.grad_norm import grad_norm as grad_norm
    from sftloss.tasks.strategies.gradient_balance import gradient_balance as gradient_balance
    from sftloss.tasks.strategies.group_dro import group_dro as group_dro
    from sftloss.tasks.strategies.imtl_g import imtl_g as imtl_g
    from sftloss.tasks.strategies.imtl_l import imtl_l as imtl_l
    from sftloss.tasks.strategies.learning_progress import learning_progress as learning_progress
    from sftloss.tasks.strategies.mgda import mgda as mgda
    from sftloss.tasks.strategies.nash_mtl import nash_mtl as nash_mtl
    from sftloss.tasks.strategies.pcgrad import pcgrad as pcgrad
    from sftloss.tasks.strategies.performance_based import performance_based as performance_based
    from sftloss.tasks.strategies.rlw import rlw as rlw
    from sftloss.tasks.strategies.static import static as static
    from sftloss.tasks.strategies.stch import stch as stch
    from sftloss.tasks.strategies.temperature import temperature as temperature
    from sftloss.tasks.strategies.uncertainty import uncertainty as uncertainty
    from sftloss.tasks.strategies.upgrad import upgrad as upgrad
    from sftloss.tasks.strategies.uw_so import uw_so as uw_so
    # end strategies

_NEEDS = ("losses", *EXTRA, "gramian")

STRATEGIES: dict[str, Callable[..., Strategy]] = dict(
    sorted(
        functions_with_records(__name__).items(),
        key=lambda item: (_NEEDS.index(item[1]().needs), item[0] != "static", item[0]),
    )
)
"""Every strategy of this room by name: ``static``, the others that need losses only, then the rest."""

globals().update(STRATEGIES)  # in place of the modules of the same names

__all__ = ["EXTRA", "STRATEGIES", "Observation", "State", "Strategy", "StrategyRecord", "of_gramian"]
__all__ += STRATEGIES
__all__.sort()
