"""Exact weights for a model whose mixed precision rounds every floating tensor it is called with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


class Exact:
    """A tensor that hooks neither round nor move, because they do not look into this object."""

    __slots__ = ("value",)

    def __init__(self, value: Tensor) -> None:
        self.value = value


def hold(batch: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The batch with its floating tensors of these names held."""
    chosen = set(names)
    is_held = {n for n, v in batch.items() if n in chosen and isinstance(v, Tensor) and v.is_floating_point()}
    return {name: Exact(value) if name in is_held else value for name, value in batch.items()}


@dataclass(frozen=True)
class Hold:
    """`hold` as a pre-hook of a module's forward pass."""

    names: tuple[str, ...]

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, hold(kwargs, self.names)


def release(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch before `hold`, its tensors on the device of the labels."""
    labels = batch.get("labels") if batch.get("labels") is not None else batch.get("shift_labels")
    device = None if labels is None else labels.device
    return {name: v.value.to(device) if isinstance(v, Exact) else v for name, v in batch.items()}
