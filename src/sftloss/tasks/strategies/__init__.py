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

from ._coba import coba
from ._difficulty_adaptive import difficulty_adaptive
from ._doremi import doremi
from ._dwa import dwa
from ._famo import famo
from ._focal_dtp import focal_dtp
from ._gls import gls
from ._gradient_balance import grad_norm, gradient_balance
from ._group_dro import group_dro
from ._imtl_l import imtl_l
from ._learning_progress import learning_progress
from ._of_gramian import of_gramian
from ._performance_based import performance_based
from ._rlw import rlw
from ._static import static
from ._stch import stch
from ._strategy import EXTRA, Observation, State, Strategy
from ._temperature import temperature
from ._uncertainty import uncertainty
from ._uw_so import uw_so

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
