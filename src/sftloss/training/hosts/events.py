"""What is done between the steps of the HF Trainer; needs transformers."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from sftloss.training.attach import attachment_of


class LossEvents(TrainerCallback):
    """Resets or restores the sums of a training, and moves its task weights."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer has just set its sums to 0, so ours are reset too, or restored from its checkpoint."""
        attachment = attachment_of(self.trainer.model)
        if attachment is not None:
            attachment.metrics("train", is_global=False)  # passes of an earlier training, or of the user's own
        self.trainer.restore_sums()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The weights move right after the optimizer, before anything is logged, evaluated or saved."""
        self.trainer.training_loss.task_factor.step()
