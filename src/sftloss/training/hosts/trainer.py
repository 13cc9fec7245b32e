"""The HF Trainer, TRL's SFTTrainer and anything made from them: the same class, with another loss."""

from __future__ import annotations

import copyreg
import logging
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data import IterableDataset

from sftloss.decoder.head import is_partitioned
from sftloss.errors import ConfigError
from sftloss.ranks import reduce_over_ranks
from sftloss.statistics import Objective
from sftloss.training.attach import attach, attachment_of
from sftloss.training.attachment import Attachment
from sftloss.training.batch.collate import CarryColumns, CountTrained
from sftloss.training.batch.exact import hold
from sftloss.training.batch.fill import Filled, fill
from sftloss.training.batch.tokens import BATCH_KEYS
from sftloss.training.hosts.trl import columns_of, has_prompts, pack_with_columns, with_roles
from sftloss.training.loss import Loss, as_loss
from sftloss.training.state import read_state, write_state
from sftloss.training.step import Step, step_total
from sftloss.training.watch.gradients import GradientWatch
from sftloss.training.watch.sums import filter_warning

_LOG = logging.getLogger("sftloss.training")
_Trainer: Any = object
_T = TypeVar("_T")


def with_loss(
    trainer: type[_T], loss: Loss | str | Objective, watch: str | None = None, watch_every: int = 125
) -> type[_T]:
    """A Trainer class that trains with a loss: change ``Trainer(...)`` to ``with_loss(Trainer, loss)(...)``.

    It is a subclass of :class:`LossTrainer` and `trainer`, which itself stays as it is; it can be subclassed and
    pickled. The step's normalizer is counted where the Trainer counts tokens, over the whole accumulation window and
    all ranks, whatever the value of `average_tokens_across_devices`. The log gains `cross_entropy`, `entropy` and
    `token_accuracy` of the response tokens since the last line, and how many tokens were trained and seen.
    `eval_loss` is the loss of the whole evaluation set, not a mean over its batches.

    Args:
        trainer: `transformers.Trainer`, `trl.SFTTrainer`, or your own subclass of them. Its `compute_loss` is
            replaced.
        loss: The loss, or just its objective.
        watch: ``"gradients"`` logs the gradient norms of examples by task, length and role, and names rows whose
            gradient is far larger than usual; see :class:`sftloss.training.watch.gradients.GradientWatch`.
        watch_every: Optimizer steps between two such looks, each of about one micro-batch's forward and backward pass.

    Returns:
        The subclass, to be constructed with the same arguments.

    Raises:
        ConfigError: On construction, if the arguments bring a second loss or what would split a sequence.
        ModelError: On construction, if the loss cannot be attached to the model.

    Example:
        >>> trainer = with_loss(Trainer, "focal(gamma=2)")(model=model, args=args)   # doctest: +SKIP
    """
    if watch not in (None, "gradients") or watch_every < 1:
        raise ConfigError(f"with_loss: watch must be 'gradients' or None, every 1 step or more, got {watch!r}.")
    chosen = as_loss(loss)
    names: dict[str, Any] = {
        "__module__": trainer.__module__,
        "__qualname__": trainer.__qualname__,
        "__doc__": LossTrainer.__doc__,
    }
    bases = (trainer,) if issubclass(trainer, LossTrainer) else (LossTrainer, trainer)
    names |= {"training_loss": chosen, "_parts": (trainer, chosen, watch, watch_every)}
    names["_watch_every"] = watch_every if watch else None
    subclass: type[_T] = _kind_of(trainer)(trainer.__name__, bases, names)
    return subclass


class LossTrainerType(type):
    """Type of the classes that :func:`with_loss` makes; it pickles them as what they were made from."""


class LossTrainer(_Trainer):
    """What :func:`with_loss` puts before a Trainer class.

    Attributes:
        training_loss: The loss.
    """

    # our loss is divided by the normalizer of the whole window
    loss_is_scaled_for_ga = True
    training_loss: Loss
    _is_predicting = False
    _watch_every: int | None = None
    _watch: GradientWatch | None = None
    _resumed_from: str | None = None
    _keeps: Mapping[str, Any] = {}  # name to an object with state_dict and load_state_dict, which checkpoints hold too

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        from sftloss.training.hosts.events import LossEvents

        super().__init__(*args, **kwargs)
        _check(self)
        if self._watch_every is not None:
            self._watch = GradientWatch(self._watch_every)
        self.training_loss.task_factor.check(self.args)
        self.model_accepts_loss_kwargs = True
        if not is_partitioned(self.model):  # else at the first step: only its engine can run the model
            self.attached()
        collator: Any = getattr(self, "data_collator", None)
        if collator is not None:
            keeps_end = getattr(self.args, "truncation_mode", "") == "keep_end"
            collator = CarryColumns(collator, self._columns(), keeps_end)
        if collator is not None and not self._sends_batches():
            collator = CountTrained(collator, self.training_loss)
        self.data_collator = collator
        self.add_callback(LossEvents(self))

    def attached(self) -> Attachment:
        """The attachment of the Trainer's model, which `model_init` may have replaced."""
        return attachment_of(self.model) or attach(self.model, self.training_loss)

    def _sends_batches(self) -> bool:
        """Whether the first rank cuts each batch and sends the parts to the others, which takes tensors alone."""
        is_sent = self.args.accelerator_config.dispatch_batches
        is_stream = any(isinstance(data, IterableDataset) for data in (self.train_dataset, self.eval_dataset))
        return self.args.world_size > 1 and (is_stream if is_sent is None else bool(is_sent))

    def _columns(self) -> tuple[str, ...]:
        return (*BATCH_KEYS, *self.training_loss.extras)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        present: list[str] = self._signature_columns or []
        self._signature_columns: list[str] = [*present, *(n for n in self._columns() if n not in present)]

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, packing: bool, *more: Any) -> Any:
        """TRL's preparation of a data set, in which packing keeps the columns of the loss."""
        prepare = super()._prepare_dataset
        names = columns_of(dataset, self._columns())
        if self.training_loss.roles is not None and has_prompts(dataset, self, args):
            prepare, names = partial(with_roles, prepare), [*names, "roles"]
        if not (packing and names):
            return prepare(dataset, processing_class, args, packing, *more)
        return pack_with_columns(prepare, dataset, names, processing_class, args, more)

    def _get_dataloader(
        self, dataset: Any, description: str, batch_size: int, sampler_fn: Any = None, **more: Any
    ) -> Any:
        from transformers.trainer_utils import has_length

        make = super()._get_dataloader
        if self.args.world_size == 1 or not has_length(dataset) or isinstance(dataset, IterableDataset):
            return make(dataset, description, batch_size, sampler_fn, **more)
        if _is_table(dataset):  # the Trainer removes its columns, but would not see it in a Filled
            dataset = self._remove_unused_columns(dataset, description=description)
        order = None if sampler_fn is None else lambda _: sampler_fn(dataset)
        return fill(make(Filled(dataset), description, batch_size, order, **more))

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Step | None:
        """The step's normalizer, in place of the Trainer's count of tokens."""
        has_labels = not batch_samples or not {"labels", "shift_labels"}.isdisjoint(batch_samples[0])
        # not model.training: the Trainer counts before it calls model.train(), at the start and after evaluating
        if not has_labels or self._is_predicting or (not batch_samples and self.args.world_size == 1):
            return None  # of several ranks one may have no batch left; the others wait for its answer
        return step_total(self.training_loss, batch_samples, device=device, copies=self.get_tp_size())

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Step | None = None
    ) -> Any:
        if num_items_in_batch is not None and not isinstance(num_items_in_batch, Step):
            raise ConfigError(
                f"with_loss: {type(self).__name__} counts the items of a step by itself; use a transformers version "
                "whose Trainer calls _get_num_items_in_batch."
            )
        self.attached()
        outputs = model(**hold(inputs, self._columns()), num_items_in_batch=num_items_in_batch)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self._watch is not None:
            inputs = self._prepare_inputs(inputs)
            step = kwargs.get("num_items_in_batch", args[0] if args else None)
            with self.accelerator.autocast():  # as the pass that is trained
                self._watch.look(self.attached(), {**inputs, "num_items_in_batch": step}, self.state.global_step)
        with self.training_loss.task_factor.capture(inputs):
            return super().training_step(model, inputs, *args, **kwargs)

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, *args: Any, **kwargs: Any) -> Any:
        inputs = {**inputs, "output_logits": not prediction_loss_only}
        if inputs.get("shift_labels") is not None:  # the Trainer looks for labels by this name only
            inputs.setdefault("labels", inputs["shift_labels"])
        self._is_predicting = True
        try:
            return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)
        finally:
            self._is_predicting = False

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        attachment = self.attached()
        attachment.metrics("eval", is_global=False)  # passes of the user's own
        output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        output.metrics.update({f"{prefix}_{k}": v for k, v in attachment.metrics("eval").items()})
        self.training_loss.task_factor.end_evaluation()
        return output

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:  # every rank logs its training loss, so every rank adds up its tokens here
            metrics = self.attached().metrics("train")
            if metrics.get("trained_tokens") == 0:
                _LOG.warning(
                    "sftloss: nothing was trained up to step %d since the last line of the log: every label is "
                    "ignored or every weight 0, so its loss of 0 means nothing.",
                    self.state.global_step,
                )
            if warning := filter_warning(metrics, self.training_loss.tolerance):
                _LOG.warning("%s", warning)
            logs.update({name: value for name, value in metrics.items() if name != "loss"})
            logs.update(self.training_loss.task_factor.metrics())
            if self._watch is not None:
                logs.update(self._watch.take())
        super().log(logs, *args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        state = {
            "loss": self._tr_loss.reshape(1),
            "last_logged": torch.tensor([self._globalstep_last_logged]),
            "total": torch.tensor([self._total_loss_scalar], dtype=torch.float64),
        }
        for name, kept in self._kept().items():
            state |= {f"{name}/{key}": value for key, value in kept.state_dict().items()}
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # another rank may still be about to
        write_state(self._state_file(output_dir), state)
        if self.args.should_save:  # the same on every rank
            self.training_loss.task_factor.save(Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        self._resumed_from = checkpoint
        if checkpoint is not None:
            self.training_loss.task_factor.load(Path(checkpoint))

    def restore_sums(self) -> None:
        """Continue from the sums of the checkpoint that training resumes from, once the Trainer has reset its own.

        Raises:
            ConfigError: If the file is damaged or lacks something that this run remembers.
        """
        checkpoint, self._resumed_from = self._resumed_from, None  # once: it may train again, from the start
        if checkpoint is None:
            return
        path, kept = self._state_file(checkpoint), self._kept()
        if not path.is_file():  # a checkpoint of another Trainer, or of fewer ranks
            _LOG.warning("sftloss: %s is missing, so the next line of the log covers the steps from here on.", path)
            return
        state = read_state(path)
        self._tr_loss.copy_(state["loss"][0])
        self._globalstep_last_logged = int(state["last_logged"])
        if "total" in state:  # `train_loss` is then the mean over all steps, as of a run that nothing interrupted
            self._total_loss_scalar, self._initial_global_step = float(state["total"]), 0
        for name, keeper in kept.items():
            own = {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}
            if not own:
                raise ConfigError(f"{path} has no state of {name}; continue with the options of the run that wrote it.")
            keeper.load_state_dict(own)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Add the steps since the last line of the log to `train_loss` from every rank; the Trainer adds its own."""
        reduce_over_ranks(self._tr_loss, "mean")
        return super()._finalize_training(*args, **kwargs)

    def _kept(self) -> dict[str, Any]:
        return {"attachment": self.attached(), **self._keeps}

    def _state_file(self, folder: str) -> Path:
        return Path(folder) / f"sftloss_rank{self.args.process_index}.safetensors"


def _kind_of(trainer: type) -> Any:
    """The type of a class made from this Trainer class, which may have a metaclass of its own."""
    kind = type(trainer)
    if issubclass(kind, LossTrainerType):
        return kind
    if kind is not type:
        kind = type(kind.__name__, (LossTrainerType, kind), {})
        copyreg.pickle(kind, _reduced)
        return kind
    return LossTrainerType


def _reduced(cls: type) -> Any:
    """How a class is pickled: as what it was made from, or, a subclass written in a module, by its name."""
    parts = vars(cls).get("_parts")
    return cls.__qualname__ if parts is None else (with_loss, parts)


copyreg.pickle(LossTrainerType, _reduced)


def _is_table(dataset: Any) -> bool:
    """Whether it is a table of `datasets`, and no wrapper around one, which has the same column names."""
    datasets = sys.modules.get("datasets")  # who has such a table has imported it
    return datasets is not None and isinstance(dataset, datasets.Dataset)


def _check(trainer: Any) -> None:
    args = trainer.args
    is_split = any(getattr(trainer, name, lambda: 1)() > 1 for name in ("get_cp_size", "get_sp_size"))
    smoothing = 'label_smoothing_factor is a second loss; write it in the objective, as "label_smoothing(epsilon=0.1)"'
    problems = {
        smoothing: bool(args.label_smoothing_factor),
        "compute_loss_func is a second loss; give one of the two": trainer.compute_loss_func is not None,
        "use_liger_kernel replaces the model's forward; leave it off, the loss is fused": args.use_liger_kernel,
        "nn.DataParallel is not supported; start one process per GPU with torchrun": args.n_gpu > 1,
        "sequences split over ranks are not supported; leave cp_size and sp_size at 1": is_split,
    }
    for problem, is_there in problems.items():
        if is_there:
            raise ConfigError(f"with_loss: {problem}.")
