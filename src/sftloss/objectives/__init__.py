"""Objectives: functions from a token's statistics to its loss, in nats. They add.

Each objective is one file of this room, which holds the function, its docstring and its record. Lists, help, the
documentation page and the tests of the laws are made from these files. ``python -m sftloss.objectives`` rewrites
the page and the imports for type checkers below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sftloss.objectives.description import Description, description, descriptions
from sftloss.objectives.expression import objective
from sftloss.objectives.record import OBJECTIVES, Objective, ObjectiveRecord, in_listing_order
from sftloss.objectives.terms import ObjectiveSum, Term, objective_function, plug_in_names
from sftloss.registry import functions_with_records

if TYPE_CHECKING:
    # begin objectives (written by `python -m sftloss.objectives`)
    from sftloss.objectives.cross_entropy import cross_entropy as cross_entropy
    from sftloss.objectives.dft import dft as dft
    from sftloss.objectives.entropy_bonus import entropy_bonus as entropy_bonus
    from sftloss.objectives.focal import focal as focal
    from sftloss.objectives.label_smoothing import label_smoothing as label_smoothing
    from sftloss.objectives.poly_1 import poly_1 as poly_1
    from sftloss.objectives.z_loss import z_loss as z_loss
    # end objectives

OBJECTIVES.update(in_listing_order(functions_with_records(__name__)))
globals().update(OBJECTIVES)  # in place of the modules of the same names

__all__ = [
    "OBJECTIVES",
    "Description",
    "Objective",
    "ObjectiveRecord",
    "ObjectiveSum",
    "Term",
    "description",
    "descriptions",
    "objective_function",
    "objective",
    "plug_in_names",
]
__all__ += OBJECTIVES
__all__.sort()
