"""The HF Trainer with our order of rows, our evaluation by group and our checkpoints; it does the training."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sftloss.finetune.checkpoint import publish
from sftloss.finetune.folder import RunFolder
from sftloss.finetune.recipe import Recipe
from sftloss.finetune.rows import DataSet, Order
from sftloss.finetune.watch import Best, Groups, NotedSpikes, tracker_metrics
from sftloss.ranks import reduce_over_ranks, world_size
from sftloss.reference import References
from sftloss.training import Loss, attachment_of, with_loss

_NAMED = ("loss", "cross_entropy", "entropy", "token_accuracy", "trained_tokens")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_Trainer: Any = object


class Stop:
    """Whether, and by which signal, this run was asked to stop. A second signal ends the run at once."""

    def __init__(self) -> None:
        self.signal = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM, and restore their handlers afterwards. Only the main thread can.

        A signal that is ignored stays ignored: the parent process (nohup, a background job) has decided so.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        handlers = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}

        def restore() -> None:
            for number, handler in handlers.items():
                signal.signal(number, handler)

        def note(number: int, frame: Any) -> None:
            self.signal = number
            restore()

        for number in handlers:
            signal.signal(number, note)
        try:
            yield
        finally:
            restore()

    def agreed(self, device: torch.device) -> int:
        """The signal that any rank received; every rank calls, so that all stop after the same step."""
        if world_size() > 1:
            self.signal = int(reduce_over_ranks(torch.tensor(self.signal, device=device), "max"))
        return self.signal


@dataclass
class Work:
    """The state of a run outside the Trainer.

    Attributes:
        recipe, loss: What is trained, and how.
        data, held_out: The rows.
        folder: Where results go.
        facts: What a checkpoint must agree with: ``recipe``, ``data``, ``held_out``, ``ranks``.
        groups: Observers of the evaluation by task and by language.
        references: The reference models' values that the loss reads.
        spikes: Spikes of the loss since the last line of the log.
        stop: Whether the run was asked to stop.
        metrics: Of the latest evaluation, as :class:`Outcome` has them.
        evaluated: The step of the latest evaluation.
        best: Of all evaluations since the first step.
    """

    recipe: Recipe
    loss: Loss
    data: DataSet
    held_out: DataSet | None
    folder: RunFolder
    groups: tuple[Groups, ...] = ()
    references: References | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    spikes: NotedSpikes = field(default_factory=NotedSpikes)
    stop: Stop = field(default_factory=Stop)
    metrics: dict[str, Any] = field(default_factory=dict)
    evaluated: int = -1
    best: Best = field(default_factory=Best)
    order: Order | None = None


class RunTrainer(_Trainer):
    """What a run puts before the Trainer that trains with its loss."""

    work: Work
    is_saving = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        attachment = attachment_of(self.model)
        assert attachment is not None
        self.work.spikes.names, attachment.spikes = attachment.spikes.names, self.work.spikes
        attachment.observers += self.work.groups

    @property
    def _keeps(self) -> dict[str, Any]:
        """What checkpoints hold too, by name."""
        best = {"best": self.work.best} if self.work.recipe.keep_best else {}
        return {"spikes": self.work.spikes, **best}

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        self.work.order = Order(len(self.work.data), seed=self.args.seed)
        return self.work.order

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # killed between the last step and the end
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        work, prefix = self.work, kwargs.get("metric_key_prefix", "eval")
        for group in work.groups:
            group.read(self.args.device)  # passes of the user's own
        output = super().evaluation_loop(*args, **kwargs)
        by_group = {group.of: group.read(self.args.device) for group in work.groups}
        for of, means in by_group.items():
            output.metrics.update(tracker_metrics(means, of, prefix))
        named = {name: output.metrics[f"{prefix}_{name}"] for name in _NAMED if f"{prefix}_{name}" in output.metrics}
        work.metrics = {**named, **{f"{of}s": means for of, means in by_group.items()}}
        work.evaluated = self.state.global_step
        work.best.look(work.evaluated, work.metrics)
        return output

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.work.folder.unfinished) if self.is_saving else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Written under another name by all ranks, then put in its place by the first."""
        name, folder = f"checkpoint-{self.state.global_step}", self.work.folder
        if self.args.should_save:
            shutil.rmtree(folder.unfinished, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        unfinished = folder.unfinished / name
        unfinished.mkdir(parents=True, exist_ok=True)
        self.is_saving = True
        try:
            super()._save_checkpoint(model, trial)
        except BaseException:
            shutil.rmtree(folder.unfinished, ignore_errors=True)  # the disk may be full
            raise
        finally:
            self.is_saving = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            facts = {**self.work.facts, "step": self.state.global_step}
            best = self.work.best.step if self.work.recipe.keep_best else 0
            publish(unfinished, folder.checkpoints / name, facts, self.work.recipe.keep, best)
            folder.unfinished.rmdir()
        self.accelerator.wait_for_everyone()

    def save_trained(self) -> None:
        """Write the trained model to the folder's `unfinished`, in which nothing else is then; every rank calls."""
        if self.args.should_save:
            shutil.rmtree(self.work.folder.unfinished, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.save_model(str(self.work.folder.unfinished))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        # the Trainer pickles its arguments beside the weights; nothing reads them
        (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)


def trainer_class(work: Work) -> Any:
    """A Trainer class for one run."""
    from transformers import Trainer

    every = work.recipe.watch_gradients
    watched = with_loss(Trainer, work.loss, "gradients" if every else None, every or 1)
    return type("Trainer", (RunTrainer, watched), {"work": work})
