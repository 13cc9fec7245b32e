"""The same model trained in several ways and compared: arms, common metrics, differences with intervals."""

from __future__ import annotations

from sftloss.experiments.check import Direction, check_study
from sftloss.experiments.comparison import compare
from sftloss.experiments.experiment import Arm, Experiment, scratch_recipe
from sftloss.experiments.metrics.generation import Generated, Sampling, generate
from sftloss.experiments.pages.describe import experiment_document
from sftloss.experiments.pretrained import pretrained_study
from sftloss.experiments.run.runner import Execution
from sftloss.experiments.studies import STUDIES, Study, run_study, study_named, study_page

__all__ = [
    "STUDIES",
    "Arm",
    "Direction",
    "Execution",
    "Experiment",
    "Generated",
    "Sampling",
    "Study",
    "check_study",
    "compare",
    "experiment_document",
    "generate",
    "pretrained_study",
    "run_study",
    "scratch_recipe",
    "study_named",
    "study_page",
]
