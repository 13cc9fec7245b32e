"""Ragged rows, batches of them, and gradients: what the tests of training share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from tests.tiny_models import tiny_model
from torch import Tensor

VOCAB = 61


def model_of(family: str = "llama", *, dtype: torch.dtype = torch.float64, **overrides: Any) -> Any:
    """A tiny model in training mode, without dropout, in float64 unless said otherwise."""
    if family == "gpt2":
        overrides |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    if family == "mixtral":  # grouped_mm knows no float64
        overrides |= {"output_router_logits": True, "experts_implementation": "eager"}
    return tiny_model(family, VOCAB, **overrides).to(dtype).train()


def ragged_rows(count: int = 8, *, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of 3 to 14 tokens whose first tokens are a prompt, each with token weights, a task and a name."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(count):
        length = int(torch.randint(3, 15, (), generator=generator))
        ids = torch.randint(3, VOCAB, (length,), generator=generator)
        labels = ids.clone()
        labels[: 1 + i % 3] = -100
        weights = torch.rand(length, generator=generator) + 0.1
        rows.append(
            {
                "input_ids": ids,
                "labels": labels,
                "roles": (labels != -100).long(),
                "token_weights": weights,
                "tasks": i % 2,
                "row_ids": f"data.jsonl:{i + 1}",
            }
        )
    return rows


def without(rows: Iterable[Mapping[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


def chunks(rows: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def gradients(model: Any) -> dict[str, Tensor]:
    """Every parameter's gradient, taken away from the model."""
    out = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    return out


def relative_error(ours: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> float:
    """The worst parameter's ||difference|| / ||truth||; a missing gradient is an error, not a zero."""
    assert ours.keys() == truth.keys()
    worst = 0.0
    for name, true in truth.items():
        difference = float((ours[name].double() - true.double()).norm())
        size = float(true.double().norm())
        worst = max(worst, difference / size if size else difference)
    return worst


def definition(
    model: Any, rows: Sequence[Mapping[str, Any]], weights_of: Any = None, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Sum of weighted cross-entropies over the sum of weights, one row at a time, from the model's own logits."""
    total, parts = 0.0, []
    for row in rows:
        logits = model(row["input_ids"][None], use_cache=False).logits[0, :-1].to(dtype)
        labels = row["labels"][1:]
        weights = torch.where(labels != -100, 1.0 if weights_of is None else weights_of(row), 0.0).to(dtype)
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none", ignore_index=-100)
        parts.append((weights * losses).sum())
        total += float(weights.sum())
    return torch.stack(parts).sum() / total
