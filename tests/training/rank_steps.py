"""Optimizer steps on several ranks, and what each must be: the definition on one process.

Every rank draws the same rows, so each can compute the truth by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from tests.training.cases import definition, gradients, model_of, ragged_rows, relative_error
from torch import Tensor

from sftloss.training import Loss, collate_rows

ROWS = ragged_rows()
LOSS = Loss(normalization="sqrt")
pad = partial(collate_rows, pad_id=0)
pack = partial(collate_rows, pad_id=0, packed=True)


@dataclass(frozen=True)
class Found:
    """What one optimizer step gave: its loss, and every parameter's whole gradient."""

    loss: float
    gradients: dict[str, Tensor]

    def errors(self, truth: Found) -> tuple[float, float]:
        """Relative, of the loss and of the worst parameter's gradient."""
        return abs(self.loss - truth.loss) / abs(truth.loss), relative_error(self.gradients, truth.gradients)


def length_weights(row: dict[str, Any]) -> Tensor:
    """The weights of `LOSS`, written out: u = w / sqrt(T), T the sum of the sequence's w."""
    weights = torch.where(row["labels"] != -100, row["token_weights"], 0.0)[1:].double()
    return weights / weights.sum().sqrt()


def plain(
    dtype: torch.dtype, rows: Sequence[dict[str, Any]] = ROWS, make: Callable[..., Any] = model_of, router: float = 0.0
) -> Found:
    """One process, the whole batch, the plain formula from the model's own logits.

    `router` is the coefficient of a mixture's auxiliary loss, the mean of those of all ranks' micro-batches.
    """
    model = make(dtype=dtype)
    loss = definition(model, rows, length_weights, dtype)
    if router:
        parts = [part for rank in range(dist.get_world_size()) for part in parts_of(rank)]
        seen = [{name: part[name] for name in ("input_ids", "attention_mask")} for part in parts]
        loss = loss + router * torch.stack([model(**part, use_cache=False).aux_loss for part in seen]).mean()
    loss.backward()
    return Found(float(loss.detach()), gradients(model))


def rows_of(rank: int) -> list[dict[str, Any]]:
    """More on the first ranks."""
    edges = [0, 5, 8] if dist.get_world_size() == 2 else [0, 3, 5, 7, 8]
    return ROWS[edges[rank] : edges[rank + 1]]


def parts_of(rank: int, collate: Callable[..., dict[str, Any]] = pad) -> list[dict[str, Any]]:
    """Two micro-batches of different sizes; the first of a rank with one row has nothing to learn."""
    rows = rows_of(rank)
    first = rows[: len(rows) // 2] or [{**rows[0], "labels": torch.full_like(rows[0]["labels"], -100)}]
    return [collate(first), collate(rows[len(rows) // 2 :])]


def mine() -> list[dict[str, Any]]:
    return parts_of(dist.get_rank())


def run(wrapped: Any, attachment: Any, parts: Sequence[dict[str, Any]], break_step: Any = None) -> float:
    """One optimizer step; the mean over ranks of what it logs. A `break_step` of None in place of a step's total is
    the mean of means."""
    step = attachment.step(parts)
    step = step if break_step is None else break_step(step)
    total = torch.zeros((), dtype=torch.float64)
    for i, part in enumerate(parts):
        is_last = i == len(parts) - 1
        quiet = nullcontext() if is_last or not hasattr(wrapped, "no_sync") else wrapped.no_sync()
        with quiet:
            loss = wrapped(**part, num_items_in_batch=step).loss
            loss = loss if step is not None else loss / len(parts)
            loss.backward()
        total += loss.detach()
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()


def no_step(step: Any) -> None:
    """A negative control: without the step each micro-batch is its own mean, and each rank too."""


def router_times_world(step: Any) -> Any:
    """A negative control: the router's loss is multiplied by the ranks, as the token loss is (transformers#48690)."""
    return type(step)(step.total, step.factors, step.micro_batches / step.ranks, step.ranks)


def whole(model: Any) -> dict[str, Tensor]:
    """Gradients, out of their shards."""
    found = gradients(model)
    return {n: g.full_tensor() if hasattr(g, "full_tensor") else g for n, g in found.items()}


def trainer_rows() -> list[dict[str, Any]]:
    """Four a rank: a window of three, and an incomplete one."""
    return ragged_rows(4 * dist.get_world_size())


def trainer_windows() -> list[list[dict[str, Any]]]:
    rows, world = trainer_rows(), dist.get_world_size()
    return [rows[: 3 * world], rows[3 * world :]]


def trained(cls: Any, model: Any, folder: str, rows: Any = None, **more: Any) -> tuple[list[Found], set[bool]]:
    """Each step of an epoch of a Trainer, and whether parameters were in shards; a row a micro-batch, in order."""
    import transformers

    steps: list[Found] = []
    losses: list[float] = []
    is_sharded: set[bool] = set()

    class Watched(cls):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            losses.append(float(loss))
            return loss

    class Watch(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            total = torch.tensor(sum(losses), dtype=torch.float64)
            losses.clear()
            dist.all_reduce(total)
            is_sharded.update(hasattr(p, "full_tensor") for p in model.parameters())
            grads = {n.removeprefix("module."): p.grad for n, p in model.named_parameters()}
            grads = {n: g.full_tensor() if hasattr(g, "full_tensor") else g.clone() for n, g in grads.items()}
            steps.append(Found(float(total) / dist.get_world_size(), grads))

    args = transformers.TrainingArguments(
        output_dir=folder,
        **{
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 3,
            "num_train_epochs": 1,
            "max_grad_norm": 0.0,
            "learning_rate": 0.0,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "dataloader_pin_memory": False,
            **more,
        },
    )
    assert args.world_size == dist.get_world_size()
    Watched(
        model=model, args=args, train_dataset=rows or trainer_rows(), data_collator=pad, callbacks=[Watch()]
    ).train()
    return steps, is_sharded
