"""What a loss trains on: `measure` streams a table in one forward pass, pure functions turn it into findings.

Each name loads its module on first use: showing a document needs neither polars nor a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sftloss.analysis._identity import file_facts, model_facts, tokenizer_facts
    from sftloss.analysis._measure import Settings, measure
    from sftloss.analysis._table import Table, token_stats

__all__ = ["Settings", "Table", "file_facts", "measure", "model_facts", "token_stats", "tokenizer_facts"]

_HOME = {
    "Settings": "_measure",
    "Table": "_table",
    "file_facts": "_identity",
    "measure": "_measure",
    "model_facts": "_identity",
    "token_stats": "_table",
    "tokenizer_facts": "_identity",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sftloss.analysis' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"sftloss.analysis.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
