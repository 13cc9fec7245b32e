"""The model that is trained: loaded or given, in the format asked for, with adapters where asked."""

from __future__ import annotations

from typing import Any

import torch

from sftloss.data.tokenizer import load_tokenizer
from sftloss.errors import ConfigError, ModelError
from sftloss.finetune.recipe import Lora, Recipe


def model_and_tokenizer(recipe: Recipe, model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """What is given, else what the recipe names; in training mode, adapters on.

    Raises:
        ConfigError: If neither says which.
        ModelError: If one cannot be loaded.
    """
    from sftloss.decoder import load_model

    if model is None:
        model, loaded = load_model(
            model_name(recipe), dtype=dtype_of(recipe), tokenizer=recipe.tokenizer, revision=recipe.revision
        )
        tokenizer = tokenizer or loaded
    elif recipe.dtype != "auto":
        model = model.to(getattr(torch, recipe.dtype))
    tokenizer = tokenizer or load_tokenizer(recipe.tokenizer or model_name(recipe), revision=recipe.revision)
    return (model if recipe.lora is None else with_adapters(model, recipe.lora, recipe.seed)), tokenizer


def model_name(recipe: Recipe) -> str:
    """The recipe's model.

    Raises:
        ConfigError: If it names none.
    """
    if not recipe.model:
        raise ConfigError("missing", option="model", cure="name one, or pass a loaded model")
    return recipe.model


def dtype_of(recipe: Recipe) -> torch.dtype | str:
    """Parameters that are trained are float32 unless said otherwise; frozen ones stay as they are."""
    if recipe.dtype == "auto":
        return torch.float32 if recipe.lora is None else "auto"
    dtype: torch.dtype = getattr(torch, recipe.dtype)
    return dtype


def with_adapters(model: Any, lora: Lora, seed: int) -> Any:
    """The model with low-rank adapters, whose random half is drawn from the seed.

    Raises:
        ConfigError: If peft is missing.
        ModelError: If no layer has the names asked for.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ConfigError("LoRA needs the package peft", cure='pip install "sftloss[train]"') from None
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
            raise ModelError(f"{str(error).splitlines()[0].rstrip('.')}", option="lora_targets") from None
