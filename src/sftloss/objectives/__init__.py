"""Objectives: from a token's statistics to its loss, in nats. Functions, so they add.

One file each; a new one enters with a source, a law row, a gradient test and an entry in docs/objectives.md.
"""

from __future__ import annotations

from sftloss.objectives.catalogue import Description, HyperParameter, describe
from sftloss.objectives.cross_entropy import cross_entropy
from sftloss.objectives.dft import dft
from sftloss.objectives.entropy_bonus import entropy_bonus
from sftloss.objectives.expression import ObjectiveSum, Term, objective
from sftloss.objectives.focal import focal
from sftloss.objectives.label_smoothing import label_smoothing
from sftloss.objectives.poly_1 import poly_1
from sftloss.objectives.registry import OBJECTIVES
from sftloss.objectives.z_loss import z_loss

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
