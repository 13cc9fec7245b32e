"""Rows for the tests of laws, made from the objectives and their records: none has to be added by hand."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sftloss.objectives import OBJECTIVES, descriptions, objective

ENTRIES = {entry.name: entry for entry in descriptions()}

LAW_ROWS: dict[str, Callable[..., Tensor]] = {
    **OBJECTIVES,
    **{text: objective(text) for entry in ENTRIES.values() for text in entry.record.examples[1:]},
    "sum": objective("cross_entropy + 1e-4 * z_loss + 0.1 * entropy_bonus"),
}
"""Every objective at its defaults, every further example of its record, and a sum."""
