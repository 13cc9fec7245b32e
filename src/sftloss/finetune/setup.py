"""A recipe in the terms of transformers and peft: the model, its adapters and the Trainer's arguments."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import torch

from sftloss.data.tokenizer import load_tokenizer
from sftloss.decoder import load_model
from sftloss.decoder.loading import first_line
from sftloss.errors import ConfigError, ModelError, mention
from sftloss.finetune.recipe import Lora, Recipe
from sftloss.models import without_collecting

# the package that transformers imports for a tracker, where the names differ
_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "azure_ml": ("azureml",), "dagshub": ("dagshub",)}


@without_collecting()
def model_and_tokenizer(recipe: Recipe, model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Return the model and tokenizer passed in, else those that the recipe names; with adapters where it asks for them.

    Raises:
        ConfigError: If there is neither.
        ModelError: If one cannot be loaded.
    """
    if model is None:
        model, own = loaded(recipe)
        tokenizer = tokenizer or own
    elif recipe.dtype != "auto":
        model = model.to(getattr(torch, recipe.dtype))
    tokenizer = tokenizer or load_tokenizer(recipe.tokenizer or model_name(recipe), revision=recipe.revision)
    return (model if recipe.lora is None else with_adapters(model, recipe.lora, recipe.seed)), tokenizer


def loaded(recipe: Recipe) -> tuple[Any, Any]:
    """The recipe's model, in the dtype of a training on its device, and the tokenizer.

    Raises:
        ConfigError: If the recipe names no model.
        ModelError: If one cannot be loaded.
    """
    return load_model(
        model_name(recipe),
        dtype=dtype_of(recipe),
        computes_on=computes_on(recipe),
        tokenizer=recipe.tokenizer,
        revision=recipe.revision,
    )


def computes_on(recipe: Recipe) -> str:
    """The type of the device that trains, to which the Trainer moves the model: ``cpu``, or another."""
    return "cpu" if _is_cpu(recipe.device) else "cuda"


def model_name(recipe: Recipe) -> str:
    """The recipe's model.

    Raises:
        ConfigError: If it names none.
    """
    if not recipe.model:
        raise ConfigError("missing", option="model", cure="name one, or pass a loaded model")
    return recipe.model


def dtype_of(recipe: Recipe) -> torch.dtype | str:
    """Dtype of the parameters: ``auto`` is float32 where they are trained, the checkpoint's where they are frozen."""
    if recipe.dtype == "auto":
        return torch.float32 if recipe.lora is None else "auto"
    dtype: torch.dtype = getattr(torch, recipe.dtype)
    return dtype


def with_adapters(model: Any, lora: Lora, seed: int) -> Any:
    """The model with low-rank adapters, whose random half is drawn from the seed.

    Raises:
        ModelError: If no layer has the names asked for.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha if lora.alpha is not None else 2 * lora.r,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) or "all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise ModelError(first_line(error), option="lora_targets") from None


def training_arguments(recipe: Recipe, folder: str, *, has_eval: bool, is_new: bool) -> Any:
    """`transformers.TrainingArguments` of a recipe.

    Raises:
        ConfigError: If the device is not there, transformers refuses a value, or the processes that a launcher started
            do not make one run.
    """
    from transformers import TrainingArguments

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(recipe.device, True):
        raise ConfigError(f"{recipe.device} is not available here", option="device", cure="choose cpu, or auto")
    try:
        result = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=recipe.batch_size,
            per_device_eval_batch_size=recipe.eval_batch_size or recipe.batch_size,
            gradient_accumulation_steps=recipe.grad_accum,
            num_train_epochs=recipe.epochs,
            max_steps=recipe.max_steps or -1,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type=recipe.schedule,
            warmup_steps=recipe.warmup,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.max_grad_norm,
            optim=recipe.optimizer,
            bf16=recipe.autocast == "bfloat16",
            fp16=recipe.autocast == "float16",
            activation_checkpointing=recipe.gradient_checkpointing,
            activation_checkpointing_kwargs={"use_reentrant": False} if recipe.gradient_checkpointing else None,
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
            logging_nan_inf_filter=False,
            dataloader_pin_memory=torch.cuda.is_available() and recipe.device in ("auto", "cuda"),
        )
    except ValueError as error:
        raise ConfigError(f"transformers refuses the training options: {first_line(error)}") from error
    started = int(os.environ.get("WORLD_SIZE", 1))
    if result.world_size != started:
        problem = f"the launcher started {started} processes, of which Accelerate joins {result.world_size}"
        cure = f"name the {mention('device')}, or launch one process"
        raise ConfigError(f"{problem}, so each would be a run of its own", cure=cure)
    return result


def check_packages(recipe: Recipe) -> None:
    """Refuse a run whose packages are missing, before a model is loaded.

    Raises:
        ConfigError: If accelerate, peft for adapters, or a tracker is missing.
    """
    for package in ("accelerate", *(["peft"] if recipe.lora is not None else [])):
        if not find_spec(package):
            raise ConfigError(f"training needs the package {package}", cure='pip install "sftloss[train]"')
    for name in recipe.report_to:
        packages = _PACKAGES.get(name, (name,))
        if not any(find_spec(package) for package in packages):
            raise ConfigError(f"{name} needs its package", option="report_to", cure=f"pip install {packages[0]}")


def _is_cpu(device: str) -> bool:
    """Under a launcher on a machine without accelerators Accelerate joins no processes unless `use_cpu` is set."""
    return device == "cpu" or (device == "auto" and not torch.accelerator.is_available())
