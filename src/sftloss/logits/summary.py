"""Text, table by length and verdict of an analyzer's result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sftloss.numbers import Estimate

EQUIVALENCE = 0.1  # elasticities within this of an anchor count as the anchor
MECHANICAL = (
    "A summed loss correlates with length by construction: a longer sequence has more terms. The correlation is near "
    "1 for any model and any data, so it is no finding. Read the elasticities."
)
ANCHORS = (
    "Elasticity in length: 1 means proportional to length, 0 independent of it, below 0 smaller for longer sequences."
)


def length_summary(result: dict[str, Any]) -> str:
    """Return a result of any of the three analyses as a few lines of text."""
    if "per_example" not in result:
        lines = [
            f"{name:22} mean {'none' if one['mean_loss'] is None else format(one['mean_loss'], '.3f'):>8}"
            f"  elasticity of the signal {_interval(one['signal_elasticity'])}"
            for name, one in result.items()
        ]
        return "\n".join([*lines, ANCHORS])
    lines = [f"{len(result['per_example']['length'])} sequences; {result['excluded']} without a target were left out"]
    lines += [f"{name:16} elasticity {_interval(one)}" for name, one in result["elasticity"].items()]
    if "bias_assessment" in result:
        lines.append(f"loss per token by length: {result['bias_assessment']}")
    return "\n".join([*lines, result["note"]])


def printed(result: dict[str, Any], verbose: bool) -> dict[str, Any]:
    if verbose:
        print(length_summary(result))
    return result


def assess(estimate: Estimate, lengths: Tensor) -> str:
    """Return a verdict, if the data allow one: at least 30 sequences, 5 lengths, and long ones 1.5 times the short."""
    from sftloss.numbers import cannot_tell, decide

    if cannot_tell(lengths):
        return "insufficient"
    off = "long_harder" if estimate.value > 0 else "short_harder"
    words = {"on target": "neutral", "off target": off, "insufficient data": "insufficient"}
    return words.get(decide(estimate, 0.0, margin=EQUIVALENCE), "inconclusive")


def by_length(lengths: Tensor, columns: dict[str, Tensor]) -> dict[int, dict[str, Any]]:
    """Return count, mean and std of each column at every length, for reading only."""
    table: dict[int, dict[str, Any]] = {}
    for length in torch.unique(lengths).tolist():
        of_length = lengths == length
        table[int(length)] = {"count": int(of_length.sum())} | {
            name: {"mean": mean(values[of_length]), "std": std(values[of_length])} for name, values in columns.items()
        }
    return table


def mean(values: Tensor) -> float | None:
    return float(values.mean()) if values.numel() else None


def std(values: Tensor) -> float | None:
    return float(values.std()) if values.numel() > 1 else None


def _interval(one: dict[str, Any]) -> str:
    if one["value"] is None:
        return f"none ({one['reason']})"
    if one["low"] is None:
        return f"{one['value']:.2f}"
    return f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"
