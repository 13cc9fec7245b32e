"""A recipe in the Trainer's words."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import torch

from sftloss.errors import ConfigError, mention
from sftloss.finetune.recipe import Recipe

# what transformers imports for each tracker it knows by a name other than its package
_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "azure_ml": ("azureml",), "dagshub": ("dagshub",)}


def arguments(recipe: Recipe, folder: str, *, has_eval: bool, is_new: bool) -> Any:
    """`transformers.TrainingArguments` of a recipe.

    Raises:
        ConfigError: If the device is not there, a tracker's package is missing, transformers refuses a value, or the
            processes that a launcher started do not make one run.
    """
    from transformers import TrainingArguments

    _check_device(recipe.device)
    check_trackers(recipe.report_to)
    try:
        made = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=recipe.batch_size,
            per_device_eval_batch_size=recipe.eval_batch_size or recipe.batch_size,
            gradient_accumulation_steps=recipe.grad_accum,
            num_train_epochs=recipe.epochs,
            max_steps=recipe.max_steps or -1,
            seed=recipe.seed,
            data_seed=recipe.seed,
            use_cpu=_is_cpu(recipe.device),
            eval_on_start=has_eval and is_new,
            eval_strategy="steps" if has_eval and recipe.eval_every else "no",
            eval_steps=recipe.eval_every,
            save_strategy="no" if recipe.output is None else "steps",
            save_steps=(recipe.eval_every if recipe.keep_best else None) or recipe.save_every,
            logging_steps=recipe.logging_every,
            report_to=list(recipe.report_to) or "none",
            run_name=recipe.run_name,
            disable_tqdm=True,
            remove_unused_columns=False,
            prediction_loss_only=True,
            logging_nan_inf_filter=False,  # what is logged is what was seen
            dataloader_pin_memory=torch.cuda.is_available() and recipe.device in ("auto", "cuda"),
            **_optimizer(recipe),
            **_precision(recipe),
        )
    except ValueError as error:
        raise ConfigError(
            f"transformers refuses the training options: {str(error).splitlines()[0].rstrip('.')}"
        ) from error
    started = int(os.environ.get("WORLD_SIZE", 1))
    if made.world_size != started:
        raise ConfigError(
            f"the launcher started {started} processes, of which Accelerate joins {made.world_size}, so each would be "
            "a run of its own",
            cure=f"name the {mention('device')}, or launch one process",
        )
    return made


def _optimizer(recipe: Recipe) -> dict[str, Any]:
    return {
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": recipe.warmup,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "optim": recipe.optimizer,
    }


def _precision(recipe: Recipe) -> dict[str, Any]:
    return {
        "bf16": recipe.autocast == "bfloat16",
        "fp16": recipe.autocast == "float16",
        "activation_checkpointing": recipe.gradient_checkpointing,
        "activation_checkpointing_kwargs": {"use_reentrant": False} if recipe.gradient_checkpointing else None,
    }


def check_trackers(names: tuple[str, ...]) -> None:
    """Say in one sentence which package a tracker lacks, before a model is loaded.

    Raises:
        ConfigError: If one is missing.
    """
    for name in names:
        packages = _PACKAGES.get(name, (name,))
        if not any(find_spec(package) for package in packages):
            raise ConfigError(f"{name} needs its package", option="report_to", cure=f"pip install {packages[0]}")


def _is_cpu(device: str) -> bool:
    """Said, because under a launcher on a machine without accelerators Accelerate would join no processes."""
    return device == "cpu" or (device == "auto" and not torch.accelerator.is_available())


def _check_device(device: str) -> None:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device, True):
        raise ConfigError(f"{device} is not available here", option="device", cure="choose cpu, or auto")
