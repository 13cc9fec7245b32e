"""Run by torchrun: rows and micro-batches that do not go round, beside one process; prints JSON on rank 0.

A case gives the worst errors of its gradient, its evaluation loss and its counts of trained tokens.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import torch.distributed as dist
import transformers
import trl
from tests.launching import conclude
from tests.tiny import tiny_tokenizer
from tests.training.cases import gradients, model_of, ragged_rows, relative_error, without
from tests.training.test_trainer import arguments
from torch.nn.parallel import DistributedDataParallel

from sftloss.training import Loss, attach, collate_rows, with_loss
from sftloss.training.watch.sums import _SUMS

SEVEN = ragged_rows(7)
FIVE = without(SEVEN[:5], "token_weights", "tasks", "row_ids")  # so that one rank's last batch holds none
LOSS = Loss(normalization="sqrt")
PROMPTS = Loss(normalization="sqrt", roles={"prompt": 0.3, "response": 1.0}, normalizer="sequences")
pad = partial(collate_rows, pad_id=0)
Errors = dict[str, float]


class Watch(transformers.TrainerCallback):
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        named = {n.removeprefix("module."): p for n, p in model.named_parameters()}
        self.gradients = {n: p.grad.clone() for n, p in named.items() if p.requires_grad}


def args_of(cls: Any = None, **more: Any) -> Any:
    """Eight rows a step, whatever the number of ranks."""
    world, folder = dist.get_world_size(), Path(tempfile.mkdtemp())
    args = arguments(folder, 2, 4 // world, cls, per_device_eval_batch_size=2, **more)
    assert args.world_size == world
    return args


def errors(trainer: Any, watch: Watch, loss: Loss, rows: Any, make: Callable[[], Any] = model_of) -> Errors:
    """Train one step and evaluate; the truth is one batch on one process."""
    trainer.train()
    found = trainer.evaluate()
    alone = make()
    single = attach(alone, loss)
    value = alone(**pad(rows)).loss
    value.backward()
    tokens = single.metrics(is_global=False)["trained_tokens"]
    counts = trainer.state.log_history[0]["trained_tokens"], found["eval_trained_tokens"]
    return {
        "gradient": relative_error(watch.gradients, gradients(alone)),
        "eval_loss": abs(found["eval_loss"] - float(value.detach())),
        "tokens": max(abs(count - tokens) for count in counts),
    }


def trained(cls: Any, loss: Loss, rows: Any = SEVEN, **more: Any) -> Errors:
    watch = Watch()
    trainer = cls(
        model=model_of(),
        args=args_of(**more),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=pad,
        callbacks=[watch],
    )
    return errors(trainer, watch, loss, rows)


def sft(make: Callable[[], Any] = model_of, **more: Any) -> Errors:
    data, watch = datasets.Dataset.from_list([{n: v.tolist() for n, v in row.items()} for row in FIVE]), Watch()
    fixed = {"remove_unused_columns": True, "max_length": None, "bf16": False, "activation_checkpointing": False}
    trainer = with_loss(trl.SFTTrainer, LOSS)(
        model=make(),
        args=args_of(trl.SFTConfig, **fixed, **more),
        train_dataset=data,
        eval_dataset=data,
        processing_class=tiny_tokenizer([]),
        callbacks=[watch],
    )
    return errors(trainer, watch, LOSS, FIVE, make)


def adapted(how: str) -> Any:
    torch.manual_seed(0)
    model = model_of()
    if how == "head":  # TRL refuses it on a PeftModel, whose head its own loss would pass by
        model.add_adapter(peft.LoraConfig(target_modules=["q_proj", "lm_head"], r=2, init_lora_weights=False))
        return model.double().train()
    config = peft.LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False, modules_to_save=["lm_head"])
    return peft.get_peft_model(model, config).train()


class Repeating(with_loss(transformers.Trainer, LOSS)):  # type: ignore[misc]
    """The negative control: the rows as Accelerate hands them out."""

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        return transformers.Trainer._get_dataloader(self, *args, **kwargs)


def metrics() -> Errors:
    """`compute_metrics` is given the rows there are, in their order."""
    rows = [{n: row[n][:3] for n in ("input_ids", "labels")} for row in SEVEN]
    seen: list[Any] = []
    trainer = with_loss(transformers.Trainer, LOSS)(
        model=model_of(),
        args=args_of(),
        eval_dataset=rows,
        data_collator=pad,
        compute_metrics=lambda told: seen.append(told) or {},
    )
    trainer.evaluate()
    logits = model_of().eval()(pad(rows)["input_ids"]).logits.detach()
    assert seen[0].predictions.shape == logits.shape and (seen[0].label_ids == pad(rows)["labels"].numpy()).all()
    return {"logits": float((torch.tensor(seen[0].predictions) - logits).abs().max())}


def windows(first: list[Any], others: list[Any]) -> Errors:
    """A plain loop in which the first rank has other micro-batches than the others; gradients averaged by hand."""
    rank, world = dist.get_rank(), dist.get_world_size()
    parts = [pad(rows) for rows in (first if rank == 0 else [rows[rank - 1 :: world - 1] for rows in others])]
    model = model_of()
    attachment = attach(model, LOSS)
    wrapped = DistributedDataParallel(model) if others else model
    step = attachment.step(parts)
    for i, part in enumerate(parts):
        with nullcontext() if i == len(parts) - 1 or not others else wrapped.no_sync():
            wrapped(**part, num_items_in_batch=step).loss.backward()
    if not others:
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            dist.all_reduce(p.grad)
            p.grad /= world
    alone = model_of()
    attach(alone, LOSS)
    alone(**pad(SEVEN)).loss.backward()
    return {"gradient": relative_error(gradients(model), gradients(alone))}


def counted() -> Errors:
    """The Trainer's own count of a step, where the others have no batch left."""
    trainer = with_loss(transformers.Trainer, LOSS)(model=model_of(), args=args_of(), data_collator=pad)
    mine = [pad(SEVEN)] if dist.get_rank() == 0 else []
    step, alone = trainer._get_num_items_in_batch(mine, torch.device("cpu")), attach(model_of(), LOSS)
    with_everything = pad(SEVEN)
    alone.model(**with_everything)
    total = float(torch.as_tensor(alone.sums["train"].state())[_SUMS.index("total")])
    return {"total": abs(float(step.total) - total)}


def main(out: str) -> None:
    warnings.filterwarnings("ignore")
    dist.init_process_group("gloo")
    cases: dict[str, Callable[[], Errors]] = {
        "trainer": partial(trained, with_loss(transformers.Trainer, LOSS), LOSS),
        # without weights of tokens, a role's weight would train a filler whose labels alone are ignored
        "prompt weights": partial(
            trained, with_loss(transformers.Trainer, PROMPTS), PROMPTS, without(SEVEN, "token_weights")
        ),
        "length groups": partial(
            trained, with_loss(transformers.Trainer, LOSS), LOSS, train_sampling_strategy="group_by_length"
        ),
        "repeated rows": partial(trained, Repeating, LOSS),
        "compute_metrics": metrics,
        "sft": sft,
        "sft, padding-free": partial(sft, padding_free=True),
        "sft, modules_to_save": partial(sft, partial(adapted, "modules_to_save")),
        "sft, LoRA on the head": partial(sft, partial(adapted, "head")),
        "three micro-batches and one": partial(windows, [SEVEN[:2], SEVEN[2:3], SEVEN[3:4]], [SEVEN[4:]]),
        "two micro-batches and none": partial(windows, [SEVEN[:4], SEVEN[4:]], []),
        "counted": counted,
    }
    results: dict[str, Any] = {}
    for name, case in cases.items():
        found = case()
        worst = torch.tensor(list(found.values()), dtype=torch.float64)
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        results[name] = dict(zip(found, worst.tolist(), strict=True))
    conclude(results, out)


if __name__ == "__main__":
    main(sys.argv[1])
