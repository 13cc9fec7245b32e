"""What ranks say to each other, counted by the dispatcher, which sees those that C++ starts too."""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import nullcontext
from typing import Any

import torch
from tests.training.cases import model_of, without
from tests.training.rank_steps import LOSS, ROWS, pad, trained, trainer_rows
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sftloss.training import attach, step_total, with_loss

WINDOWS = (1, 2, 4)


class Collectives(TorchDispatchMode):
    """Counts collectives by name and number of elements."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            sizes = [leaf.numel() for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
            self.seen[f"{func.name().split('::')[1]} {sizes[0]}"] += 1
        return func(*args, **(kwargs or {}))


def loop(engine: str, window: int, is_ours: bool, is_once: bool = True) -> Counter[str]:
    """One optimizer step; `is_once` False is the negative control, a `step` for each micro-batch."""
    model = model_of()
    attachment = attach(model, LOSS) if is_ours else None
    if engine == "fsdp2":
        for layer in [*model.model.layers, model]:
            fully_shard(layer)
    wrapped: Any = DistributedDataParallel(model) if engine == "ddp" else model
    parts = [pad(ROWS)] * window
    with Collectives() as counted:
        step = attachment.step(parts) if attachment is not None and is_once else None
        for i, part in enumerate(parts):
            given: dict[str, Any] = {"num_items_in_batch": step}
            if attachment is not None and not is_once:
                given = {"num_items_in_batch": attachment.step([part])}
            if attachment is None:
                part, given = {name: part[name] for name in ("input_ids", "labels", "attention_mask")}, {}
            with nullcontext() if engine == "fsdp2" or i == window - 1 else wrapped.no_sync():
                wrapped(**part, **given).loss.backward()
    return counted.seen


def added_by_the_loss() -> dict[str, list[dict[str, int]]]:
    """For each window, the collectives beyond those of the model's own loss in the same loop."""
    kinds = {"ddp": ("ddp", True), "fsdp2": ("fsdp2", True), "control": ("ddp", False)}
    return {
        name: [dict(loop(engine, n, True, once) - loop(engine, n, False)) for n in WINDOWS]
        for name, (engine, once) in kinds.items()
    }


def added_in_the_trainer() -> dict[str, list[dict[str, int]]]:
    """For each window, the collectives of a step beyond those of the Trainer's own loss."""
    import transformers

    class Often(with_loss(transformers.Trainer, LOSS)):  # type: ignore[misc]
        """The negative control."""

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            kwargs["num_items_in_batch"] = step_total(LOSS, [inputs])
            return super().compute_loss(model, inputs, *args, **kwargs)

    def epoch(cls: Any, window: int) -> Counter[str]:
        rows = without(trainer_rows(), "token_weights", "tasks", "row_ids")
        with tempfile.TemporaryDirectory() as folder, Collectives() as counted:
            trained(cls, model_of(), folder, rows, gradient_accumulation_steps=window)
        return counted.seen

    kinds = {"ours": with_loss(transformers.Trainer, LOSS), "control": Often}
    return {
        name: [dict(epoch(cls, n) - epoch(transformers.Trainer, n)) for n in WINDOWS] for name, cls in kinds.items()
    }
