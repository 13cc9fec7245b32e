"""loss = sum of c_i * f(s_i): coefficients from the data times an objective of a few next-token statistics.

Importing this package loads nothing; each name and each room below loads on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sftloss.version import __version__ as __version__

if TYPE_CHECKING:
    from sftloss import (
        analysis,
        data,
        decoder,
        experiments,
        finetune,
        logits,
        numbers,
        objectives,
        pipeline,
        reference,
        report,
        statistics,
        tasks,
        testing,
        training,
        weights,
    )
    from sftloss.experiments.comparison import compare
    from sftloss.finetune.fine_tune import fine_tune
    from sftloss.loss import weighted_loss
    from sftloss.objectives import objective
    from sftloss.pipeline.analyze import analyze
    from sftloss.pipeline.inspect import inspect
    from sftloss.pipeline.lengths import lengths
    from sftloss.report import Report
    from sftloss.statistics import Head, Plan, TokenStats, from_logits, map_logits, token_statistics
    from sftloss.tasks import MultiTaskLoss
    from sftloss.testing import check_accumulation, check_loop, check_trainer
    from sftloss.training import Loss, attach, detach, per_example_gradients, with_loss

__all__ = [
    "Head",
    "Loss",
    "MultiTaskLoss",
    "Plan",
    "Report",
    "TokenStats",
    "analysis",
    "analyze",
    "attach",
    "check_accumulation",
    "check_loop",
    "check_trainer",
    "compare",
    "data",
    "decoder",
    "detach",
    "experiments",
    "fine_tune",
    "finetune",
    "from_logits",
    "inspect",
    "lengths",
    "logits",
    "map_logits",
    "numbers",
    "objective",
    "objectives",
    "per_example_gradients",
    "pipeline",
    "reference",
    "report",
    "statistics",
    "tasks",
    "testing",
    "token_statistics",
    "training",
    "weighted_loss",
    "weights",
    "with_loss",
]

_ROOM_OF = {
    "Head": "statistics",
    "Loss": "training",
    "MultiTaskLoss": "tasks",
    "Plan": "statistics",
    "Report": "report",
    "TokenStats": "statistics",
    "analyze": "pipeline",
    "attach": "training",
    "check_accumulation": "testing",
    "check_loop": "testing",
    "check_trainer": "testing",
    "compare": "experiments",
    "detach": "training",
    "fine_tune": "finetune",
    "from_logits": "statistics",
    "inspect": "pipeline",
    "lengths": "pipeline",
    "map_logits": "statistics",
    "objective": "objectives",
    "per_example_gradients": "training",
    "token_statistics": "statistics",
    "weighted_loss": "loss",
    "with_loss": "training",
}
_ROOMS = tuple(name for name in __all__ if name not in _ROOM_OF)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _ROOMS:
        return import_module(f"sftloss.{name}")
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'sftloss' has no attribute {name!r}")
    value = getattr(import_module(f"sftloss.{_ROOM_OF[name]}"), name)
    globals()[name] = value  # the next use is a plain lookup
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
