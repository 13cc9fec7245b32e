"""From a model and its data to a report: read, encode, batch, measure, describe. Every step is another room's.

Heavy rooms load when a pipeline runs, not when this package is imported.
"""

from __future__ import annotations

from sftloss.pipeline._analyze import analyze, check, take_part
from sftloss.pipeline._demo import demo
from sftloss.pipeline._lengths import lengths
from sftloss.pipeline._question import normalisation, normalisations_of_a_step, role_weights
from sftloss.pipeline._run import Run

__all__ = [
    "Run",
    "analyze",
    "check",
    "demo",
    "lengths",
    "normalisation",
    "normalisations_of_a_step",
    "role_weights",
    "take_part",
]
