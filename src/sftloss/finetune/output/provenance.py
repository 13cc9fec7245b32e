"""What made a model: enough to make it again, and to refuse to go on from something else."""

from __future__ import annotations

from typing import Any

from sftloss.finetune.output.files import plain
from sftloss.finetune.recipe import Recipe
from sftloss.finetune.rows import DataSet
from sftloss.models import weights_note
from sftloss.version import package_versions


def identity(recipe: Recipe, data: DataSet, held_out: DataSet | None, ranks: int) -> dict[str, Any]:
    """What decides the trained weights, besides the versions."""
    told = {
        "recipe": recipe.identity(),
        "data": data.digest(),
        "held_out": None if held_out is None else held_out.digest(),
        "ranks": ranks,
    }
    return dict(plain(told))


def versions() -> dict[str, str]:
    return package_versions("sftloss", "python", "torch", "transformers", "accelerate", "tokenizers", "peft")


def data_facts(data: DataSet) -> dict[str, Any]:
    """Where rows came from, how many, and a digest of the tokens and weights they became."""
    return {
        "source": data.source,
        "digest": data.digest(),
        "examples": len(data.examples),
        "rows": len(data),
        "tokens": data.tokens,
        "trained_tokens": data.trained_tokens,
        "truncated": sum(e.truncated > 0 for e in data.examples),
        "refused": dict(data.refused),
        "tasks": list(data.names("task")),
    }


def model_facts(model: Any) -> dict[str, Any]:
    config = model.config
    return {
        "name": str(getattr(config, "_name_or_path", "")) or None,
        "weights": weights_note(model),
        "commit": getattr(config, "_commit_hash", None),
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
    }
