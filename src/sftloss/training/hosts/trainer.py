"""The HF Trainer, TRL's SFTTrainer and anything made from them: the same class, with another loss."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from sftloss.decoder.head import is_partitioned
from sftloss.errors import ConfigError
from sftloss.statistics.probe import Objective
from sftloss.training.attach import attach, attachment_of
from sftloss.training.batch.exact import hold
from sftloss.training.batch.fill import Filled, fill
from sftloss.training.batch.tokens import BATCH_KEYS
from sftloss.training.loss import Loss, as_loss
from sftloss.training.state import load_state, save_state
from sftloss.training.step import Step, step_total
from sftloss.training.tasks.factors import TaskFactor

_LOG = logging.getLogger("sftloss.training")


def with_loss(trainer: Any, loss: Loss | str | Objective) -> Any:
    """A Trainer class that trains with a loss: change ``Trainer(...)`` to ``with_loss(Trainer, loss)(...)``.

    It is a subclass: `trainer` itself stays as it is. The step's normalizer is counted where the Trainer counts
    tokens, over the whole accumulation window and all ranks, whatever `average_tokens_across_devices` says. The log
    gains `cross_entropy`, `entropy` and `token_accuracy` of the tokens trained since the last line, and how many were
    trained and seen. `eval_loss` is the loss of the whole evaluation set, not a mean over its batches.

    Args:
        trainer: `transformers.Trainer`, `trl.SFTTrainer`, or your own subclass of them. Its `compute_loss` is
            replaced.
        loss: The loss, or just its objective.

    Returns:
        The subclass, to be made with the same arguments.

    Raises:
        ConfigError: On making it, if the arguments bring a second loss or what would split a sequence.
        ModelError: On making it, if the loss cannot be attached to the model.

    Example:
        >>> trainer = with_loss(Trainer, "focal(gamma=2)")(model=model, args=args)   # doctest: +SKIP
    """
    from transformers.trainer_utils import has_length

    chosen = as_loss(loss)
    tasks = chosen.task_factor

    class LossTrainer(trainer):
        # our loss is divided by the normalizer of the whole window
        loss_is_scaled_for_ga = True
        _is_predicting = False
        _resumed_from: str | None = None
        _keeps: Mapping[str, Any] = {}  # noqa: RUF012  objects whose state its checkpoints hold too; see save_state

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            _check(self, tasks)
            self.model_accepts_loss_kwargs = True
            if not is_partitioned(self.model):  # else at the first step: only its engine can run the model
                _attached(self, chosen)
            self.add_callback(_events(self, chosen, tasks))

        def _set_signature_columns_if_needed(self) -> None:
            super()._set_signature_columns_if_needed()
            present: list[str] = self._signature_columns or []
            self._signature_columns: list[str] = [
                *present,
                *(n for n in (*BATCH_KEYS, *chosen.extras) if n not in present),
            ]

        def _get_dataloader(
            self, dataset: Any, description: str, batch_size: int, sampler_fn: Any = None, **more: Any
        ) -> Any:
            make = super()._get_dataloader
            if self.args.world_size == 1 or not has_length(dataset) or isinstance(dataset, IterableDataset):
                return make(dataset, description, batch_size, sampler_fn, **more)
            if _is_table(dataset):  # the Trainer removes its columns, but would not see it in a Filled
                dataset = self._remove_unused_columns(dataset, description=description)
            order = None if sampler_fn is None else lambda _: sampler_fn(dataset)
            return fill(make(Filled(dataset), description, batch_size, order, **more))

        def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Step | None:
            """The step's normalizer, where the Trainer's own answer is a count of tokens."""
            has_labels = not batch_samples or not {"labels", "shift_labels"}.isdisjoint(batch_samples[0])
            # not model.training: the Trainer counts before it calls model.train(), at the start and after evaluating
            if not has_labels or self._is_predicting or (not batch_samples and self.args.world_size == 1):
                return None  # of several ranks one may have no batch left; the others wait for its answer
            return step_total(chosen, batch_samples, device=device, copies=self.get_tp_size())

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Step | None = None
        ) -> Any:
            if num_items_in_batch is not None and not isinstance(num_items_in_batch, Step):
                raise ConfigError(
                    f"with_loss: {trainer.__name__} counts the items of a step by itself; use a transformers version "
                    "whose Trainer asks _get_num_items_in_batch."
                )
            _attached(self, chosen)
            outputs = model(**hold(inputs, (*BATCH_KEYS, *chosen.extras)), num_items_in_batch=num_items_in_batch)
            return (outputs.loss, outputs) if return_outputs else outputs.loss

        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            with tasks.capture(inputs):
                return super().training_step(model, inputs, *args, **kwargs)

        def prediction_step(
            self, model: Any, inputs: Any, prediction_loss_only: bool, *args: Any, **kwargs: Any
        ) -> Any:
            inputs = {**inputs, "output_logits": not prediction_loss_only}
            if inputs.get("shift_labels") is not None:  # the Trainer looks for labels by this name only
                inputs.setdefault("labels", inputs["shift_labels"])
            self._is_predicting = True
            try:
                return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)
            finally:
                self._is_predicting = False

        def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
            attachment = _attached(self, chosen)
            attachment.metrics("eval", is_global=False)  # what a user's own passes left
            output = super().evaluation_loop(*args, **kwargs)
            prefix = kwargs.get("metric_key_prefix", "eval")
            output.metrics.update({f"{prefix}_{k}": v for k, v in attachment.metrics("eval").items()})
            tasks.end_evaluation()
            return output

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            if "loss" in logs:  # every rank logs its training loss, so every rank adds up its tokens here
                seen = _attached(self, chosen).metrics("train")
                if seen.get("trained_tokens") == 0:
                    _LOG.warning(
                        "sftloss: nothing was trained up to step %d since the last line of the log: every label is "
                        "ignored or every weight 0, so its loss of 0 says nothing.",
                        self.state.global_step,
                    )
                logs.update({name: value for name, value in seen.items() if name != "loss"})
                logs.update(tasks.metrics())
            super().log(logs, *args, **kwargs)

        def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
            super()._save_optimizer_and_scheduler(output_dir)
            save_state(self, Path(output_dir), self._keeps)
            if self.args.should_save:  # the same on every rank
                tasks.save(Path(output_dir))

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            super()._load_optimizer_and_scheduler(checkpoint)
            self._resumed_from = checkpoint
            if checkpoint is not None:
                tasks.load(Path(checkpoint))

    LossTrainer.__name__ = LossTrainer.__qualname__ = trainer.__name__
    return LossTrainer


def _events(trainer: Any, loss: Loss, tasks: TaskFactor) -> Any:
    """What is done between the Trainer's own steps."""
    from transformers import TrainerCallback

    class Events(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """The Trainer has just set its sums to 0, so ours are too, or those of its checkpoint."""
            attachment = attachment_of(trainer.model)
            if attachment is not None:
                attachment.metrics("train", is_global=False)  # what an earlier training or a user's own passes left
            # once: it may train again, from the start
            checkpoint, trainer._resumed_from = trainer._resumed_from, None
            if checkpoint is not None:
                _attached(trainer, loss)
                load_state(trainer, Path(checkpoint), trainer._keeps)

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """The weights move right after the optimizer, before anything is logged, evaluated or saved."""
            tasks.step()

    return Events()


def _is_table(dataset: Any) -> bool:
    """Whether it is a table of `datasets`, and no wrapper around one, which says the same column names."""
    from transformers.utils import is_datasets_available

    if not is_datasets_available():
        return False
    from datasets import Dataset

    return isinstance(dataset, Dataset)


def _attached(trainer: Any, loss: Loss) -> Any:
    """The attachment of the trainer's model, which `model_init` may have replaced."""
    return attachment_of(trainer.model) or attach(trainer.model, loss)


def _check(trainer: Any, tasks: TaskFactor) -> None:
    args = trainer.args
    tasks.check(args)
    if args.label_smoothing_factor:
        raise ConfigError(
            "with_loss: label_smoothing_factor is a second loss; write it in the objective, as "
            '"label_smoothing(epsilon=0.1)".'
        )
    if trainer.compute_loss_func is not None:
        raise ConfigError("with_loss: compute_loss_func is a second loss; give one of the two.")
    if getattr(args, "use_liger_kernel", False):
        raise ConfigError("with_loss: use_liger_kernel replaces the model's forward; leave it off, the loss is fused.")
    if args.n_gpu > 1:
        raise ConfigError("with_loss: nn.DataParallel is not supported; start one process per GPU with torchrun.")
    for name in ("get_cp_size", "get_sp_size"):
        if getattr(trainer, name, lambda: 1)() > 1:
            raise ConfigError(
                "with_loss: sequences split over ranks are not supported; leave cp_size and sp_size at 1."
            )
