"""A data file, a model and a loss to a trained model: a run of the HF Trainer that can be killed and resumed."""

from __future__ import annotations

from sftloss.finetune.fine_tune import fine_tune
from sftloss.finetune.outcome import Interrupted, Outcome
from sftloss.finetune.plan import TrainingPlan, plan, strip_of
from sftloss.finetune.recipe import Lora, Recipe
from sftloss.finetune.task_weights import read_choice, with_reference

__all__ = [
    "Interrupted",
    "Lora",
    "Outcome",
    "Recipe",
    "TrainingPlan",
    "fine_tune",
    "plan",
    "read_choice",
    "strip_of",
    "with_reference",
]
