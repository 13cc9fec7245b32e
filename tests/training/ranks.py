"""Run by torchrun: gradients of one optimizer step on several ranks beside those of one process; prints JSON on rank 0.

Every case draws the same rows on every rank, so each can compute the truth by itself.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.training.cases import gradients, model_of, ragged_rows, relative_error
from torch.nn.parallel import DistributedDataParallel

from sftloss.training import Loss, attach, collate_rows, with_loss

ROWS = ragged_rows()
LOSS = Loss(alpha=0.5)
pad = partial(collate_rows, pad_id=0)


def truth(rows: Any = ROWS) -> dict[str, torch.Tensor]:
    """One process, one batch."""
    model = model_of()
    attach(model, LOSS)
    model(**pad(rows)).loss.backward()
    return gradients(model)


def mine() -> list[dict[str, Any]]:
    """Ragged: two micro-batches a rank, of different sizes, and more rows on the first ranks."""
    rank, world = dist.get_rank(), dist.get_world_size()
    edges = [0, 5, 8] if world == 2 else [0, 3, 5, 7, 8]
    rows = ROWS[edges[rank] : edges[rank + 1]]
    first = rows[: len(rows) // 2] or [{**rows[0], "labels": torch.full_like(rows[0]["labels"], -100)}]
    return [pad(first), pad(rows[len(rows) // 2 :])]


def run(wrapped: Any, attachment: Any, parts: list[dict[str, Any]], is_ours: bool = True) -> float:
    """One optimizer step; the mean over ranks of what it logs."""
    step = attachment.step(parts) if is_ours else None
    total = torch.zeros((), dtype=torch.float64)
    for i, part in enumerate(parts):
        is_last = i == len(parts) - 1
        quiet = nullcontext() if is_last or not hasattr(wrapped, "no_sync") else wrapped.no_sync()
        with quiet:
            loss = wrapped(**part, num_items_in_batch=step).loss
            (loss if is_ours else loss / len(parts)).backward()
        total += loss.detach()
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()


def ddp(is_ours: bool = True, wrap_first: bool = False) -> float:
    model = model_of()
    wrapped: Any = DistributedDataParallel(model) if wrap_first else None
    attachment = attach(wrapped if wrap_first else model, LOSS)
    wrapped = wrapped or DistributedDataParallel(model)
    value = run(wrapped, attachment, mine(), is_ours)
    if is_ours:
        alone = model_of()
        single = attach(alone, LOSS)
        expected = float(alone(**pad(ROWS)).loss.detach())
        assert abs(value - expected) < 1e-10, (value, expected)
        ours, seen = attachment.metrics(), single.metrics(is_global=False)
        assert abs(ours["cross_entropy"] - seen["cross_entropy"]) < 1e-10
        assert ours["trained_tokens"] == seen["trained_tokens"]
    return relative_error(gradients(model), truth())


def masked_rank() -> float:
    model = model_of()
    attachment = attach(model, LOSS)
    parts = mine()
    if dist.get_rank() == 1:
        parts = [{**part, "labels": torch.full_like(part["labels"], -100)} for part in parts]
    run(DistributedDataParallel(model), attachment, parts)
    edges = (5, 8) if dist.get_world_size() == 2 else (3, 5)
    kept = [row for i, row in enumerate(ROWS) if not edges[0] <= i < edges[1]]
    return relative_error(gradients(model), truth(kept))


def fsdp2(is_head_alone: bool) -> float:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = model_of()
    attachment = attach(model, LOSS)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in [*model.model.layers, *([model.lm_head] if is_head_alone else [])]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    run(model, attachment, mine())
    full = {name: grad.full_tensor() for name, grad in gradients(model).items()}
    return relative_error(full, truth())


def adapters(how: str, is_head_alone: bool = False) -> float:
    """LoRA on the head and on frozen layers, wrapped by what Accelerate wraps PEFT models with."""
    from peft import LoraConfig, get_peft_model
    from torch.distributed.fsdp import fully_shard

    def made() -> Any:
        torch.manual_seed(0)
        config = LoraConfig(target_modules=["q_proj", "lm_head"], r=2, init_lora_weights=False)
        return get_peft_model(model_of(), config).train()

    alone, model = made(), made()
    attach(alone, LOSS)
    alone(**pad(ROWS)).loss.backward()
    wrapped = DistributedDataParallel(model) if how == "ddp" else model
    attachment = attach(model, LOSS) if how == "attached, then fsdp2" else None
    if how != "ddp":
        base = model.get_base_model()
        for layer in [*base.model.layers, *([base.lm_head] if is_head_alone else []), model]:
            fully_shard(layer)
    run(wrapped, attachment or attach(model, LOSS), mine())
    found = {n: g.full_tensor() if how != "ddp" else g for n, g in gradients(model).items()}
    return relative_error(found, gradients(alone))


def trainer(folder: str) -> float:
    import transformers

    seen: list[dict[str, torch.Tensor]] = []

    class Watch(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            seen.append({n.removeprefix("module."): p.grad.clone() for n, p in model.named_parameters()})

    world = dist.get_world_size()
    args = transformers.TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=4 // world,
        gradient_accumulation_steps=2,
        max_steps=1,
        max_grad_norm=0.0,
        learning_rate=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    assert args.world_size == world
    cls = with_loss(transformers.Trainer, LOSS)
    run_ = cls(model=model_of(), args=args, train_dataset=ROWS, data_collator=pad, callbacks=[Watch()])
    run_.train()
    return relative_error(seen[0], truth())


def accelerate_loop() -> float:
    """Its `backward` divides by the number of micro-batches; the loop of examples/accelerate_loop.py undoes that."""
    from accelerate import Accelerator

    accelerator = Accelerator(gradient_accumulation_steps=2)
    assert accelerator.num_processes == dist.get_world_size()
    model = model_of()
    attachment = attach(model, LOSS)
    wrapped = accelerator.prepare(model)
    parts = mine()
    step = attachment.step(parts)
    for part in parts:
        with accelerator.accumulate(wrapped):
            loss = wrapped(**part, num_items_in_batch=step).loss
            accelerator.backward(loss * accelerator.gradient_accumulation_steps)
    return relative_error(gradients(model), truth())


def main(out: str) -> None:
    warnings.filterwarnings("ignore")
    dist.init_process_group("gloo")
    cases: dict[str, Callable[[], float]] = {
        "ddp": ddp,
        "attach after ddp": partial(ddp, wrap_first=True),
        "masked rank": masked_rank,
        "mean of means": partial(ddp, is_ours=False),
        "fsdp2": partial(fsdp2, False),
        "fsdp2, head alone": partial(fsdp2, True),
        **{f"LoRA on the head, {how}": partial(adapters, how) for how in ("ddp", "fsdp2", "attached, then fsdp2")},
        "LoRA on the head alone in fsdp2": partial(adapters, "fsdp2", is_head_alone=True),
        "accelerate": accelerate_loop,
        "trainer": partial(trainer, str(Path(out).parent)),
    }
    results: dict[str, Any] = {"world": dist.get_world_size()}
    for name, case in cases.items():
        error = torch.tensor(case(), dtype=torch.float64)
        dist.all_reduce(error, op=dist.ReduceOp.MAX)
        results[name] = float(error)
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(results), encoding="utf-8")
    dist.barrier()
    os._exit(0)  # gloo's threads may still drop a tensor, which aborts a closing interpreter


if __name__ == "__main__":
    main(sys.argv[1])
