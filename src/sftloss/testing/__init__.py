"""Laws that anyone's loss, loop or trainer can be held to: no model or loss of ours is needed."""

from __future__ import annotations

from sftloss.testing.accumulation import assert_accumulation, check_accumulation
from sftloss.testing.loop import check_loop
from sftloss.testing.objective import LAWS, ObjectiveReport, assert_objective, check_objective, random_extras
from sftloss.testing.report import REASONS, AccumulationReport, SplitResult
from sftloss.testing.trainer import check_trainer

__all__ = [
    "LAWS",
    "REASONS",
    "AccumulationReport",
    "ObjectiveReport",
    "SplitResult",
    "assert_accumulation",
    "assert_objective",
    "check_accumulation",
    "check_loop",
    "check_objective",
    "check_trainer",
    "random_extras",
]
