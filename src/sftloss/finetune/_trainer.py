"""The HF Trainer with our order of rows, our evaluation by group and our checkpoints; it does the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sftloss.finetune._groups import Groups, flat
from sftloss.finetune._rows import DataSet, Order
from sftloss.training import Loss, attachment_of, with_loss

_TOLD = ("loss", "cross_entropy", "entropy", "token_accuracy", "trained_tokens")


@dataclass
class Work:
    """What a run holds beside the Trainer.

    Attributes:
        loss: What is trained.
        data, held_out: The rows.
        groups: Watch the evaluation by task and by language.
        metrics: Of the latest evaluation, as :class:`Outcome` has them.
    """

    loss: Loss
    data: DataSet
    held_out: DataSet | None
    groups: tuple[Groups, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    order: Order | None = None


def trainer_class(work: Work) -> Any:
    """A Trainer class for one run."""
    from transformers import Trainer

    class FineTuner(with_loss(Trainer, work.loss)):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            attachment = attachment_of(self.model)
            assert attachment is not None
            attachment.observers += work.groups

        def _get_train_sampler(self, train_dataset: Any = None) -> Order:
            work.order = Order(len(work.data), multiple=_multiple(self, train=True), seed=self.args.seed)
            return work.order

        def _get_eval_sampler(self, eval_dataset: Any) -> Order:
            return Order(len(eval_dataset), multiple=_multiple(self, train=False), seed=None)

        def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
            for group in work.groups:
                group.read(self.args.device)  # what a user's own passes left
            output = super().evaluation_loop(*args, **kwargs)
            prefix = kwargs.get("metric_key_prefix", "eval")
            found = {f"{group.of}s": group.read(self.args.device) for group in work.groups}
            for group in work.groups:
                output.metrics.update(flat(found[f"{group.of}s"], group.of, prefix))
            work.metrics = {**_named(output.metrics, prefix), **found}
            return output

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            super()._save(output_dir, state_dict)
            _drop_pickled_arguments(output_dir or self.args.output_dir)

    return FineTuner


def _multiple(trainer: Any, *, train: bool) -> int:
    """Rows are filled up to equally many for each rank; one process needs none."""
    world = trainer.args.world_size
    size = trainer.args.train_batch_size if train else trainer.args.eval_batch_size
    return size * world if world > 1 else 1


def _named(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {name: metrics[f"{prefix}_{name}"] for name in _TOLD if f"{prefix}_{name}" in metrics}


def _drop_pickled_arguments(folder: str) -> None:
    """The Trainer pickles its arguments beside the weights; nothing reads them, and a pickle runs code when read."""
    from pathlib import Path

    (Path(folder) / "training_args.bin").unlink(missing_ok=True)
