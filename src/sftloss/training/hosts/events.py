"""What is done between the steps of the HF Trainer; needs transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sftloss.training.attach import attachment_of
from sftloss.training.hosts.state import load_state


class LossEvents(TrainerCallback):
    """Resets or restores the sums of a training, and moves its task weights."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer has just set its sums to 0, so ours are reset too, or restored from its checkpoint."""
        trainer = self.trainer
        attachment = attachment_of(trainer.model)
        if attachment is not None:
            attachment.metrics("train", is_global=False)  # passes of an earlier training, or of the user's own
        # once: it may train again, from the start
        checkpoint, trainer._resumed_from = trainer._resumed_from, None
        if checkpoint is not None:
            trainer.attached()
            load_state(trainer, Path(checkpoint), trainer._keeps)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The weights move right after the optimizer, before anything is logged, evaluated or saved."""
        self.trainer.training_loss.task_factor.step()
