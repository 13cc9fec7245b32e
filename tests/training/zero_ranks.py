"""Run by torchrun: DeepSpeed's optimizer step in stages 2 and 3 on two ranks beside one process; JSON on rank 0."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_grad
from tests.launching import conclude
from tests.training.cases import model_of, relative_error
from tests.training.rank_steps import LOSS, ROWS, mine, pad, plain

from sftloss.training import attach, with_loss


def config(stage: int, rows: Any = 2) -> dict[str, Any]:
    # no parameter is small enough to stay whole
    zero = {"stage": stage, "stage3_param_persistence_threshold": 0}
    given = {"train_micro_batch_size_per_gpu": rows, "gradient_accumulation_steps": 2, "zero_optimization": zero}
    given["gradient_clipping"] = 0.0  # Accelerate would clip to 1 where a file says nothing
    return {**given, "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}


def full_gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name.removeprefix("module."): safe_get_full_grad(p) for name, p in model.named_parameters()}


def loop(stage: int, is_ours: bool = True, is_wrapped_first: bool = False) -> float:
    """A loop of one's own. `engine.backward` divides by the number of micro-batches, as Accelerate's does."""
    model = model_of(dtype=torch.float32)
    attachment: Any = None if is_wrapped_first else attach(model, LOSS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config(stage))
    assert all(p.numel() == 0 for p in model.parameters()) == (stage == 3)
    attachment = attachment or attach(engine, LOSS)
    parts = mine()
    step = attachment.step(parts) if is_ours else None
    for i, part in enumerate(parts):
        loss = engine(**part, num_items_in_batch=step).loss
        engine.backward(loss * len(parts) if is_ours else loss)
        if i < len(parts) - 1:
            engine.step()
    return relative_error(full_gradients(model), plain(torch.float64).gradients)


def join_on_the_processor() -> None:
    """Accelerate joins DeepSpeed's processes on accelerators alone; what it does afterwards works on a CPU too."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_CPU)


def trainer(stage: int) -> float:
    """The HF Trainer with a DeepSpeed file, one line changed: how far a rate of 1 moves the weights."""
    import transformers

    expected, before = plain(torch.float64).gradients, dict(model_of(dtype=torch.float32).named_parameters())
    with tempfile.TemporaryDirectory() as folder:
        args = transformers.TrainingArguments(
            output_dir=folder,
            deepspeed=config(stage, rows="auto"),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_steps=1,
            max_grad_norm=0.0,
            learning_rate=1.0,
            optim="sgd",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        assert args.world_size == dist.get_world_size()
        model = model_of(dtype=torch.float32)  # with stage 3 transformers makes it in shards, and draws other weights
        with torch.no_grad(), deepspeed.zero.GatheredParameters(list(model.parameters()), modifier_rank=0):
            for name, p in model.named_parameters():
                p.copy_(before[name])
        run = with_loss(transformers.Trainer, LOSS)(model=model, args=args, train_dataset=ROWS, data_collator=pad)
        run.train()
        assert run.is_deepspeed_enabled
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        moved = {name: (before[name] - p).detach().cpu() for name, p in model.named_parameters()}
    return relative_error(moved, expected)


def main(out: str) -> None:
    warnings.filterwarnings("ignore")
    deepspeed.init_distributed("gloo")
    join_on_the_processor()
    cases: dict[str, Callable[[], float]] = {
        **{f"loop, stage {stage}": partial(loop, stage) for stage in (2, 3)},
        "attach after stage 3": partial(loop, 3, is_wrapped_first=True),
        "mean of means": partial(loop, 2, is_ours=False),
        **{f"trainer, stage {stage}": partial(trainer, stage) for stage in (2, 3)},
    }
    conclude({name: case() for name, case in cases.items()}, out)


if __name__ == "__main__":
    main(sys.argv[1])
