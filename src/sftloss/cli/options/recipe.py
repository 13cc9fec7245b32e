"""From the options of a verb that trains to the fields of a training recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sftloss.errors import ConfigError


def recipe_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of :class:`sftloss.finetune.Recipe` that these option values give.

    Raises:
        ConfigError: If a weight is not a number, or LoRA options are given without a rank.
    """
    from sftloss.finetune import Lora, Recipe

    recipe = {f.name: values[f.name] for f in fields(Recipe) if f.name in values}
    recipe["roles"] = {role: _number("roles", weight) for role, weight in values["roles"].items()} or None
    recipe["columns"] = values["columns"] or None
    if values["normalizer"].replace(".", "", 1).isdigit():
        recipe["normalizer"] = float(values["normalizer"])
    rank, *rest = (values[f"lora_{name}"] for name in ("r", "alpha", "dropout", "targets"))
    if rank is not None:
        recipe["lora"] = Lora(rank, *rest)
    elif any(rest):
        raise ConfigError("missing, the rank of the adapters", option="lora_r", cure="give it, for example 16")
    return recipe


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"expected a number, got {text[:40]!r}", option=name) from None
