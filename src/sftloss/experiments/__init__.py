"""One model under several losses, trained and compared: arms, metrics, and differences with intervals."""

from __future__ import annotations

from sftloss.experiments.comparison import compare
from sftloss.experiments.pages.describe import describe
from sftloss.experiments.plan import Arm, Plan
from sftloss.experiments.run.generate import Generated, Sampling, generate
from sftloss.experiments.run.runner import Manner
from sftloss.experiments.studies import STUDIES, Study, study, study_page

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
