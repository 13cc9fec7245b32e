"""Task weights as pure mathematics: ``init(K) -> state``, ``update(state, observation) -> state``, ``weights(state)``.

Each strategy is one small file. All share two rules, kept in one place: a task absent from a step keeps its state, and
weights have mean 1 over the tasks seen so far, so that no strategy changes the learning rate on the side. ::

    chosen = uncertainty(kind="classification")
    state = chosen.init(2)
    state = chosen.update(state, Observation(losses=torch.tensor([2.0, 0.5]), counts=torch.tensor([80, 20])))
    chosen.weights(state)          # for the next step
"""

from __future__ import annotations

from collections.abc import Callable

from sftloss.tasks.strategies.coba import coba
from sftloss.tasks.strategies.difficulty_adaptive import difficulty_adaptive
from sftloss.tasks.strategies.doremi import doremi
from sftloss.tasks.strategies.dwa import dwa
from sftloss.tasks.strategies.famo import famo
from sftloss.tasks.strategies.focal_dtp import focal_dtp
from sftloss.tasks.strategies.gls import gls
from sftloss.tasks.strategies.gradient_balance import grad_norm, gradient_balance
from sftloss.tasks.strategies.group_dro import group_dro
from sftloss.tasks.strategies.imtl_l import imtl_l
from sftloss.tasks.strategies.learning_progress import learning_progress
from sftloss.tasks.strategies.of_gramian import of_gramian
from sftloss.tasks.strategies.performance_based import performance_based
from sftloss.tasks.strategies.rlw import rlw
from sftloss.tasks.strategies.static import static
from sftloss.tasks.strategies.stch import stch
from sftloss.tasks.strategies.strategy import EXTRA, Observation, State, Strategy
from sftloss.tasks.strategies.temperature import temperature
from sftloss.tasks.strategies.uncertainty import uncertainty
from sftloss.tasks.strategies.uw_so import uw_so

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "static": static,
    "temperature": temperature,
    "uncertainty": uncertainty,
    "uw_so": uw_so,
    "imtl_l": imtl_l,
    "dwa": dwa,
    "difficulty_adaptive": difficulty_adaptive,
    "performance_based": performance_based,
    "learning_progress": learning_progress,
    "group_dro": group_dro,
    "gls": gls,
    "stch": stch,
    "rlw": rlw,
    "focal_dtp": focal_dtp,
    "famo": famo,
    "coba": coba,
    "doremi": doremi,
    "gradient_balance": gradient_balance,
    "grad_norm": grad_norm,
}
"""Every strategy by name. A literal dict: what is not written here does not exist."""

__all__ = [
    "EXTRA",
    "STRATEGIES",
    "Observation",
    "State",
    "Strategy",
    "coba",
    "difficulty_adaptive",
    "doremi",
    "dwa",
    "famo",
    "focal_dtp",
    "gls",
    "grad_norm",
    "gradient_balance",
    "group_dro",
    "imtl_l",
    "learning_progress",
    "of_gramian",
    "performance_based",
    "rlw",
    "static",
    "stch",
    "temperature",
    "uncertainty",
    "uw_so",
]
