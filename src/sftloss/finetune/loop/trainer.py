"""The HF Trainer with our order of rows, our evaluation by group and our checkpoints; it does the training."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftloss.finetune.loop.best import Best
from sftloss.finetune.loop.groups import Groups, flat
from sftloss.finetune.loop.spikes import NotedSpikes
from sftloss.finetune.loop.stop import Stop
from sftloss.finetune.output.checkpoint import publish
from sftloss.finetune.output.folder import RunFolder
from sftloss.finetune.recipe import Recipe
from sftloss.finetune.rows import DataSet, Order
from sftloss.training import Loss, attachment_of, with_loss

_TOLD = ("loss", "cross_entropy", "entropy", "token_accuracy", "trained_tokens")


@dataclass
class Work:
    """What a run holds beside the Trainer.

    Attributes:
        recipe, loss: What is trained, and how.
        data, held_out: The rows.
        folder: Where results go.
        facts: What a checkpoint must agree with: ``recipe``, ``data``, ``held_out``, ``ranks``.
        groups: Watch the evaluation by task and by language.
        keeps: Objects with `state_dict` and `load_state_dict` that checkpoints hold too, by name.
        spikes: Those since the last line of the log.
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
    facts: dict[str, Any] = field(default_factory=dict)
    groups: tuple[Groups, ...] = ()
    keeps: dict[str, Any] = field(default_factory=dict)
    spikes: NotedSpikes = field(default_factory=NotedSpikes)
    stop: Stop = field(default_factory=Stop)
    metrics: dict[str, Any] = field(default_factory=dict)
    evaluated: int = -1
    best: Best = field(default_factory=Best)
    order: Order | None = None


def trainer_class(work: Work) -> Any:
    """A Trainer class for one run."""
    from transformers import Trainer

    class FineTuner(with_loss(Trainer, work.loss)):  # type: ignore[misc]
        _keeps = work.keeps

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.is_saving = False
            super().__init__(*args, **kwargs)
            attachment = attachment_of(self.model)
            assert attachment is not None
            attachment.spikes = work.spikes
            attachment.observers += work.groups

        def _get_train_sampler(self, train_dataset: Any = None) -> Order:
            work.order = Order(len(work.data), seed=self.args.seed)
            return work.order

        def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
            if self.state.global_step >= self.state.max_steps:  # killed between the last step and the end
                self.control.should_training_stop = True
                return
            super()._run_epoch(*args, **kwargs)

        def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
            for group in work.groups:
                group.read(self.args.device)  # what a user's own passes left
            output = super().evaluation_loop(*args, **kwargs)
            prefix = kwargs.get("metric_key_prefix", "eval")
            found = {f"{group.of}s": group.read(self.args.device) for group in work.groups}
            for group in work.groups:
                output.metrics.update(flat(found[f"{group.of}s"], group.of, prefix))
            work.metrics, work.evaluated = {**_named(output.metrics, prefix), **found}, self.state.global_step
            work.best.look(work.evaluated, work.metrics)
            return output

        def _get_output_dir(self, trial: Any) -> str:
            return str(work.folder.unfinished) if self.is_saving else super()._get_output_dir(trial)

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            """Written under another name by all ranks, then put in its place by the first."""
            name = f"checkpoint-{self.state.global_step}"
            if self.args.should_save:
                shutil.rmtree(work.folder.unfinished, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            unfinished = work.folder.unfinished / name
            unfinished.mkdir(parents=True, exist_ok=True)
            self.is_saving = True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.is_saving = False
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                facts = {**work.facts, "step": self.state.global_step}
                best = work.best.step if work.recipe.keep_best else 0
                publish(unfinished, work.folder.checkpoints / name, facts, work.recipe.keep, best)
                work.folder.unfinished.rmdir()
            self.accelerator.wait_for_everyone()

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            super()._save(output_dir, state_dict)
            # the Trainer pickles its arguments beside the weights; nothing reads them
            (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)

    FineTuner.__name__ = FineTuner.__qualname__ = "Trainer"
    return FineTuner


def _named(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {name: metrics[f"{prefix}_{name}"] for name in _TOLD if f"{prefix}_{name}" in metrics}
