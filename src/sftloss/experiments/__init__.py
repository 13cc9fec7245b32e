"""One model under several losses, trained and compared: arms, metrics, and differences with intervals."""

from __future__ import annotations

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
