"""From a model and its data to a report: read, encode, batch, measure, describe. Every step is another room's.

Heavy rooms load when a pipeline runs, not when this package is imported.
"""

from __future__ import annotations

from sftloss.pipeline.analyze import analyze, check, take_part
from sftloss.pipeline.curve import training_curve
from sftloss.pipeline.demo import demo
from sftloss.pipeline.inspect import inspect
from sftloss.pipeline.lengths import lengths
from sftloss.pipeline.question import read_normalization, read_role_weights, step_normalizations
from sftloss.pipeline.reference import store_reference
from sftloss.pipeline.run import Run
from sftloss.pipeline.side_by_side import side_by_side

__all__ = [
    "Run",
    "analyze",
    "check",
    "demo",
    "inspect",
    "lengths",
    "read_normalization",
    "read_role_weights",
    "side_by_side",
    "step_normalizations",
    "store_reference",
    "take_part",
    "training_curve",
]
