"""Objectives: from a token's statistics to its loss, in nats. Functions, so they add.

One file each; a new one enters with a source, a law row, a gradient test and an entry in docs/objectives.md.
"""

from __future__ import annotations

from sftloss.objectives._catalogue import Description, HyperParameter, describe
from sftloss.objectives._cross_entropy import cross_entropy
from sftloss.objectives._dft import dft
from sftloss.objectives._entropy_bonus import entropy_bonus
from sftloss.objectives._expression import ObjectiveSum, Term, objective
from sftloss.objectives._focal import focal
from sftloss.objectives._label_smoothing import label_smoothing
from sftloss.objectives._poly_1 import poly_1
from sftloss.objectives._registry import OBJECTIVES
from sftloss.objectives._z_loss import z_loss

__all__ = [
    "OBJECTIVES",
    "Description",
    "HyperParameter",
    "ObjectiveSum",
    "Term",
    "cross_entropy",
    "describe",
    "dft",
    "entropy_bonus",
    "focal",
    "label_smoothing",
    "objective",
    "poly_1",
    "z_loss",
]
