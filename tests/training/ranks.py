"""Run by torchrun: one optimizer step on several ranks beside one process; writes JSON on rank 0.

Each case answers its errors against the definition in float64: those of a float64 model, and those of a float32 model
in units of float32's epsilon, beyond twice what the plain formula errs on one process.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.distributed as dist
from tests.launching import conclude
from tests.training.cases import gradients, model_of
from tests.training.collectives import added_by_the_loss, added_in_the_trainer
from tests.training.rank_steps import (
    LOSS,
    ROWS,
    Found,
    mine,
    no_step,
    pack,
    pad,
    parts_of,
    plain,
    router_times_world,
    rows_of,
    run,
    trained,
    trainer_windows,
    whole,
)
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from sftloss.training import attach, with_loss

ROUTER = 0.5
mixture = partial(model_of, "mixtral", router_aux_loss_coef=ROUTER)


@cache
def exact_and_plain(truth: Callable[[torch.dtype], Found]) -> tuple[Found, tuple[float, float]]:
    """The truth, and what the plain formula errs in float32."""
    exact = truth(torch.float64)
    return exact, truth(torch.float32).errors(exact)


@dataclass(frozen=True)
class Case:
    """A step, as a function of the model's dtype, and its truth, as one too."""

    step: Callable[[torch.dtype], Found]
    truth: Callable[[torch.dtype], Found] = plain

    def errors(self) -> list[float]:
        """Loss, gradient; then both in float32, beyond the plain formula's own."""
        exact, allowed = exact_and_plain(self.truth)
        narrow = self.step(torch.float32).errors(exact)
        eps = torch.finfo(torch.float32).eps
        beyond = [(ours - 2 * theirs) / eps for ours, theirs in zip(narrow, allowed, strict=True)]
        return [*self.step(torch.float64).errors(exact), *beyond]


def ddp(
    dtype: torch.dtype,
    *,
    parts: Any = mine,
    make: Callable[..., Any] = model_of,
    prepare: Callable[[Any], Any] = lambda model: None,
    break_step: Any = None,
    is_wrapped_first: bool = False,
) -> Found:
    model = make(dtype=dtype)
    prepare(model)
    wrapped: Any = DistributedDataParallel(model) if is_wrapped_first else None
    attachment = attach(wrapped if is_wrapped_first else model, LOSS)
    wrapped = wrapped or DistributedDataParallel(model)
    return Found(run(wrapped, attachment, parts(), break_step), gradients(model))


def rounded(dtype: torch.dtype) -> Found:
    """A negative control: ranks add their gradients in float16."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

    model = model_of(dtype=dtype)
    attachment = attach(model, LOSS)
    wrapped = DistributedDataParallel(model)
    wrapped.register_comm_hook(None, fp16_compress_hook)
    return Found(run(wrapped, attachment, mine()), gradients(model))


def same_log(dtype: torch.dtype) -> float:
    """What the ranks log together, less what one process logs."""
    model, alone = model_of(dtype=dtype), model_of(dtype=dtype)
    attachment, single = attach(model, LOSS), attach(alone, LOSS)
    run(DistributedDataParallel(model), attachment, mine())
    alone(**pad(ROWS))
    ours, expected = attachment.metrics(), single.metrics(is_global=False)
    expected.pop("loss")  # which a part of a step does not have
    # a rank with one row sees it once more, with nothing to learn
    parts = [part for rank in range(dist.get_world_size()) for part in parts_of(rank)]
    expected["seen_tokens"] = float(sum(part["attention_mask"].sum() for part in parts))
    assert ours.keys() == expected.keys()
    return max(abs(ours[name] - expected[name]) for name in expected)


def checkpointed(model: Any) -> None:
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert model.is_gradient_checkpointing


def second_rank_masked() -> list[dict[str, Any]]:
    parts = mine()
    if dist.get_rank() != 1:
        return parts
    return [{**part, "labels": torch.full_like(part["labels"], -100)} for part in parts]


def rows_without_the_second_rank() -> list[dict[str, Any]]:
    return [row for rank in range(dist.get_world_size()) if rank != 1 for row in rows_of(rank)]


def packed() -> list[dict[str, Any]]:
    return parts_of(dist.get_rank(), pack)


def fsdp2(
    dtype: torch.dtype, *, parts: Any = mine, is_head_alone: bool = False, prepare: Any = lambda model: None
) -> Found:
    model = model_of(dtype=dtype)
    prepare(model)
    attachment = attach(model, LOSS)
    for layer in [*model.model.layers, *([model.lm_head] if is_head_alone else []), model]:
        fully_shard(layer)
    return Found(run(model, attachment, parts()), whole(model))


def adapted(dtype: torch.dtype) -> Any:
    """LoRA on the head and on frozen layers."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(target_modules=["q_proj", "lm_head"], r=2, init_lora_weights=False)
    return get_peft_model(model_of(dtype=torch.float32), config).to(dtype).train()


def adapters(dtype: torch.dtype, how: str, is_head_alone: bool = False) -> Found:
    """Wrapped by what Accelerate wraps PEFT models with."""
    model = adapted(dtype)
    wrapped = DistributedDataParallel(model) if how == "ddp" else model
    attachment = attach(model, LOSS) if how == "attached, then fsdp2" else None
    if how != "ddp":
        base = model.get_base_model()
        for layer in [*base.model.layers, *([base.lm_head] if is_head_alone else []), model]:
            fully_shard(layer)
    return Found(run(wrapped, attachment or attach(model, LOSS), mine()), whole(model))


@cache
def trainer(dtype: torch.dtype) -> list[Found]:
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        steps, _ = trained(with_loss(transformers.Trainer, LOSS), model_of(dtype=dtype), folder)
    assert len(steps) == 2
    return steps


def trainer_case(window: int) -> Case:
    return Case(lambda dtype: trainer(dtype)[window], partial(plain, rows=trainer_windows()[window]))


def accelerate_loop(dtype: torch.dtype) -> Found:
    """Its `backward` divides by the number of micro-batches; the loop of examples/accelerate_loop.py undoes that."""
    from accelerate import Accelerator

    accelerator = Accelerator(gradient_accumulation_steps=2)
    assert accelerator.num_processes == dist.get_world_size()
    model = model_of(dtype=dtype)
    attachment = attach(model, LOSS)
    wrapped = accelerator.prepare(model)
    parts = mine()
    step = attachment.step(parts)
    total = torch.zeros((), dtype=torch.float64)
    for part in parts:
        with accelerator.accumulate(wrapped):
            loss = wrapped(**part, num_items_in_batch=step).loss
            accelerator.backward(loss * accelerator.gradient_accumulation_steps)
        total += loss.detach()
    dist.all_reduce(total)
    return Found(float(total) / dist.get_world_size(), gradients(model))


def cases() -> dict[str, Case]:
    lora, with_router = partial(plain, make=adapted), partial(plain, make=mixture, router=ROUTER)
    masked = partial(plain, rows=rows_without_the_second_rank())
    how = ("ddp", "fsdp2", "attached, then fsdp2")
    return {
        "ddp": Case(ddp),
        "attach after ddp": Case(partial(ddp, is_wrapped_first=True)),
        "ddp, packed": Case(partial(ddp, parts=packed)),
        "ddp, checkpointed": Case(partial(ddp, prepare=checkpointed)),
        "ddp, masked rank": Case(partial(ddp, parts=second_rank_masked), masked),
        "ddp, router": Case(partial(ddp, make=mixture), with_router),
        "fsdp2": Case(fsdp2),
        "fsdp2, head alone": Case(partial(fsdp2, is_head_alone=True)),
        "fsdp2, packed, checkpointed": Case(partial(fsdp2, parts=packed, prepare=checkpointed)),
        "fsdp2, masked rank": Case(partial(fsdp2, parts=second_rank_masked), masked),
        **{f"LoRA on the head, {name}": Case(partial(adapters, how=name), lora) for name in how},
        "LoRA on the head alone in fsdp2": Case(partial(adapters, how="fsdp2", is_head_alone=True), lora),
        "accelerate": Case(accelerate_loop),
        "trainer": trainer_case(0),
        "trainer, last window": trainer_case(1),
        "mean of means": Case(partial(ddp, break_step=no_step)),
        "router times world": Case(partial(ddp, make=mixture, break_step=router_times_world), with_router),
        "added in float16": Case(rounded),
    }


def main(out: str) -> None:
    warnings.filterwarnings("ignore")
    dist.init_process_group("gloo")
    results: dict[str, Any] = {}
    for name, case in cases().items():
        errors = torch.tensor(case.errors(), dtype=torch.float64).nan_to_num(nan=float("inf"))
        dist.all_reduce(errors, op=dist.ReduceOp.MAX)
        results[name] = errors.tolist()
    results |= {"log": same_log(torch.float64), "added": added_by_the_loss(), "trainer added": added_in_the_trainer()}
    conclude(results, out)


if __name__ == "__main__":
    main(sys.argv[1])
