"""Any loss in any training loop: the HF Trainer, TRL, Accelerate and plain PyTorch, exact at any split of a step."""

from __future__ import annotations

from sftloss.training.attach import attach, attachment_of, detach
from sftloss.training.attachment import Attachment
from sftloss.training.batch.collate import CountTrained, collate_rows, inputs_of
from sftloss.training.batch.tokens import weigh_batch
from sftloss.training.gradients.per_example import ExampleGradients, per_example_gradients
from sftloss.training.gradients.shares import AdditiveShares, additive_shares
from sftloss.training.hosts.trainer import LossTrainer, with_loss
from sftloss.training.loss import Loss
from sftloss.training.passes import Pass
from sftloss.training.step import Step, step_total
from sftloss.training.tasks.factors import TaskFactor, TaskFactors
from sftloss.training.tasks.weighting import TaskWeighting

__all__ = [
    "AdditiveShares",
    "Attachment",
    "CountTrained",
    "ExampleGradients",
    "Loss",
    "LossTrainer",
    "Pass",
    "Step",
    "TaskFactor",
    "TaskFactors",
    "TaskWeighting",
    "additive_shares",
    "attach",
    "attachment_of",
    "collate_rows",
    "detach",
    "inputs_of",
    "per_example_gradients",
    "step_total",
    "weigh_batch",
    "with_loss",
]
