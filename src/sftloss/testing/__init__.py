"""Laws that anyone's loss, loop or trainer can be held to: no model or loss of ours is needed."""

from __future__ import annotations

from sftloss.testing._accumulation import assert_accumulation, check_accumulation
from sftloss.testing._loop import check_loop
from sftloss.testing._report import REASONS, AccumulationReport, SplitResult
from sftloss.testing._trainer import check_trainer

__all__ = [
    "REASONS",
    "AccumulationReport",
    "SplitResult",
    "assert_accumulation",
    "check_accumulation",
    "check_loop",
    "check_trainer",
]
