"""Run by `accelerate launch`: one Trainer step on two ranks beside one process; prints JSON on rank 0."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from tests.training.cases import model_of, relative_error
from tests.training.ranks import LOSS, ROWS, pad, truth

from sftloss.training import attach, with_loss

Steps = list[dict[str, torch.Tensor]]


def shard_on_the_processor() -> None:
    """Accelerate shards on accelerators alone and on a CPU silently copies; its own wrapping works there too."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    made = AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        made(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # read anew by every other state

    AcceleratorState.__init__ = init


class Watch(transformers.TrainerCallback):
    """Whole gradients, and whether parameters are in shards."""

    def __init__(self) -> None:
        self.steps: Steps = []
        self.is_sharded: set[bool] = set()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.is_sharded = {hasattr(p, "full_tensor") for p in model.parameters()}
        grads = {n.removeprefix("module."): p.grad for n, p in model.named_parameters()}
        self.steps.append({n: g.full_tensor() if hasattr(g, "full_tensor") else g.clone() for n, g in grads.items()})


def step(cls: Any, folder: str) -> Watch:
    watch, model = Watch(), model_of()
    if cls is MeanOfMeans:
        attach(model, LOSS)
    args = transformers.TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=1,
        max_grad_norm=0.0,
        learning_rate=0.0,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    assert args.world_size == dist.get_world_size() == 2
    cls(model=model, args=args, train_dataset=ROWS, data_collator=pad, callbacks=[watch]).train()
    return watch


class MeanOfMeans(transformers.Trainer):
    """The negative control: each micro-batch divided by its own weights, on each rank."""

    loss_is_scaled_for_ga = False

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return model(**inputs).loss


def main(out: str) -> None:
    warnings.filterwarnings("ignore")
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_the_processor()
    with tempfile.TemporaryDirectory() as folder:
        ours = step(with_loss(transformers.Trainer, LOSS), folder)
        theirs = step(MeanOfMeans, folder)
    results = {
        "world": dist.get_world_size(),
        "is_sharded": sorted(ours.is_sharded),
        "error": relative_error(ours.steps[0], truth()),
        "mean of means": relative_error(theirs.steps[0], truth()),
    }
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(results), encoding="utf-8")
    dist.barrier()
    os._exit(0)  # gloo's threads may still drop a tensor, which aborts a closing interpreter


if __name__ == "__main__":
    main(sys.argv[1])
