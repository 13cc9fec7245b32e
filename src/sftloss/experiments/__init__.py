"""One model under several losses, trained and compared: arms, metrics, and differences with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sftloss.experiments._compare import compare
    from sftloss.experiments._describe import describe
    from sftloss.experiments._generate import Generated, Sampling, generate
    from sftloss.experiments._plan import Arm, Plan
    from sftloss.experiments._runner import Manner
    from sftloss.experiments._studies import STUDIES, Study, study, study_page

__all__ = [
    "STUDIES",
    "Arm",
    "Generated",
    "Manner",
    "Plan",
    "Sampling",
    "Study",
    "compare",
    "describe",
    "generate",
    "study",
    "study_page",
]

_HOME = {
    "STUDIES": "_studies",
    "Arm": "_plan",
    "Generated": "_generate",
    "Manner": "_runner",
    "Plan": "_plan",
    "Sampling": "_generate",
    "Study": "_studies",
    "compare": "_compare",
    "describe": "_describe",
    "generate": "_generate",
    "study": "_studies",
    "study_page": "_studies",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sftloss.experiments' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"sftloss.experiments.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
