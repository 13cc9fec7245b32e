"""Any loss in any training loop: the HF Trainer, TRL, Accelerate and plain PyTorch, exact at any split of a step."""

from __future__ import annotations

from sftloss.training._attach import Attachment, attach, attachment_of, detach
from sftloss.training._collate import collate_rows, inputs_of
from sftloss.training._loss import Loss, TaskFactors
from sftloss.training._pass import Pass
from sftloss.training._step import Step, step_total
from sftloss.training._task_weighting import TaskWeighting
from sftloss.training._tokens import weigh_batch
from sftloss.training._trainer import with_loss

__all__ = [
    "Attachment",
    "Loss",
    "Pass",
    "Step",
    "TaskFactors",
    "TaskWeighting",
    "attach",
    "attachment_of",
    "collate_rows",
    "detach",
    "inputs_of",
    "step_total",
    "weigh_batch",
    "with_loss",
]
