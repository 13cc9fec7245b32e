"""loss = sum of c_i * f(s_i): coefficients from the data times an objective of a few next-token statistics.

Importing this package loads nothing; each name below loads its room on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from sftloss.loss import weighted_loss
    from sftloss.objectives import objective
    from sftloss.pipeline import analyze
    from sftloss.report import Report
    from sftloss.statistics import Head, Plan, TokenStats, from_logits, map_logits, token_statistics
    from sftloss.tasks import MultiTaskLoss
    from sftloss.training import attach, detach

__all__ = [
    "Head",
    "MultiTaskLoss",
    "Plan",
    "Report",
    "TokenStats",
    "analyze",
    "attach",
    "detach",
    "from_logits",
    "map_logits",
    "objective",
    "token_statistics",
    "weighted_loss",
]

_HOME = {
    "Head": "statistics",
    "MultiTaskLoss": "tasks",
    "Plan": "statistics",
    "Report": "report",
    "TokenStats": "statistics",
    "analyze": "pipeline",
    "attach": "training",
    "detach": "training",
    "from_logits": "statistics",
    "map_logits": "statistics",
    "objective": "objectives",
    "token_statistics": "statistics",
    "weighted_loss": "loss",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sftloss' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"sftloss.{_HOME[name]}"), name)
    globals()[name] = value  # the next use is a plain lookup
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
