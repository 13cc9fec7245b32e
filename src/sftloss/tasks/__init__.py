"""Weights for the tasks of one training run: :class:`MultiTaskLoss` and its layers, each usable alone.

* :mod:`sftloss.tasks.strategies`: weights as pure mathematics on explicit state,
* :func:`task_sums`: token losses to a sum and a count for each task,
* :class:`MultiTaskLoss`: names, micro-batches, ranks, bounds, checkpoint and statistics,
* :class:`TaskGradients`: each task's gradient from one backward pass, and their Gramian,
* :mod:`sftloss.tasks.gramian`: weights from it,
* :class:`Conflicts`: how the gradients lie to each other, under any weights.
"""

from __future__ import annotations

from sftloss.tasks.choice import strategy_named
from sftloss.tasks.gradients.conflicts import Conflicts
from sftloss.tasks.gradients.task_gradients import TaskGradients
from sftloss.tasks.multi_task import MultiTaskLoss
from sftloss.tasks.rules import Rules
from sftloss.tasks.strategies import STRATEGIES, Observation, Strategy
from sftloss.tasks.sums import task_sums
from sftloss.tasks.trend import Trend, trend

__all__ = [
    "STRATEGIES",
    "Conflicts",
    "MultiTaskLoss",
    "Observation",
    "Rules",
    "Strategy",
    "TaskGradients",
    "Trend",
    "strategy_named",
    "task_sums",
    "trend",
]
