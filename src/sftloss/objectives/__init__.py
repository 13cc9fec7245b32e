"""Objectives: from a token's statistics to its loss, in nats. Functions, so they add.

One file each; a new one enters with a source, a law row, a gradient test and an entry in docs/objectives.md.
"""

from __future__ import annotations

from ._catalogue import Description, HyperParameter, describe
from ._cross_entropy import cross_entropy
from ._dft import dft
from ._entropy_bonus import entropy_bonus
from ._expression import ObjectiveSum, Term, objective
from ._focal import focal
from ._label_smoothing import label_smoothing
from ._poly_1 import poly_1
from ._registry import OBJECTIVES
from ._z_loss import z_loss

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
