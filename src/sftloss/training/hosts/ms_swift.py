"""ms-swift with any objective. A file of two lines::

    from sftloss.training.hosts.ms_swift import register
    register("focal", "focal(gamma=2)")

then ``swift sft --external_plugins that_file.py --loss_type focal``. ms-swift gives a loss the logits, so they are
held; and it normalizes by the number of labels, so only the objective can be chosen here, and its `loss_scale` weighs
tokens without changing the normalizer. The interface is that of ms-swift 4.6.0 (`swift/loss/base.py`).
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from sftloss.errors import ConfigError
from sftloss.statistics import IGNORED, Objective, from_logits
from sftloss.training.loss import Loss, as_loss


def register(name: str, loss: Loss | str | Objective) -> type:
    """Make a loss known to ms-swift by name, for ``--loss_type name``.

    Args:
        name: A name ms-swift does not have yet.
        loss: An objective, or a loss that chooses nothing else.

    Returns:
        The class in ms-swift's `loss_map`.

    Raises:
        ConfigError: If the name is taken, or the loss needs a normalizer that ms-swift cannot count.
    """
    room: Any = importlib.import_module("swift.loss")
    chosen = as_loss(loss)
    if name in room.loss_map:
        raise ConfigError(f"register: ms-swift has a loss {name!r} already; choose another name.")
    if not chosen.counts_tokens or chosen.extras:
        raise ConfigError(
            "register: ms-swift counts labels only, so a loss there has an objective and nothing else; for "
            "normalization, roles, tasks or another normalizer use sftloss.training.with_loss on its trainer class."
        )

    room.loss_map[name] = type(f"Sftloss_{name}", (SwiftLoss, room.BaseLoss), {"chosen": chosen, "loss_name": name})
    loss_class: type = room.loss_map[name]
    return loss_class


class SwiftLoss:
    """What :func:`register` puts before ms-swift's BaseLoss."""

    chosen: Loss
    loss_name: str
    trainer: Any

    def __call__(
        self, outputs: Any, labels: Tensor, *, num_items_in_batch: Any = None, loss_scale: Any = None, **kwargs: Any
    ) -> Tensor:
        template = getattr(self.trainer, "template", None)
        if getattr(template, "sequence_parallel_size", 1) > 1:
            raise ConfigError(
                f"{self.loss_name}: sequences split over ranks are refused; set sequence_parallel_size 1."
            )
        return loss_of_logits(self.chosen, outputs.logits, labels, num_items_in_batch, loss_scale)


def loss_of_logits(
    loss: Loss, logits: Tensor, labels: Tensor, items: Any = None, scale: Tensor | None = None
) -> Tensor:
    r"""The sum of scale times objective over the labels, over the number of items of the step.

    Args:
        loss: Its objective is what counts.
        logits: ``(rows, columns, vocab)``.
        labels: ``(rows, columns)``, not shifted, as transformers has them.
        items: Labels of the whole step; those of `labels` by default.
        scale: Weight of predicting each token, ms-swift's `loss_scale`: ``(rows * columns,)``, shifted already.

    Returns:
        A scalar, still connected to the graph where there is no label.
    """
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED).reshape(-1).to(logits.device)
    is_label = targets != IGNORED
    items = is_label.sum().clamp(min=1) if items is None else items
    weights = is_label.float() if scale is None else torch.where(is_label, scale.reshape(-1).to(logits.device), 0.0)
    kept = torch.nonzero(weights)[:, 0]  # a row that does not count is not even read: NaN there poisons nothing
    stats = from_logits(logits.reshape(-1, logits.shape[-1])[kept], targets[kept])
    losses = loss.function(stats)
    loss_of_step: Tensor = (losses * weights[kept]).sum() / items
    return loss_of_step


__all__ = ["loss_of_logits", "register"]
