"""What a loss trains on: `measure` streams a table in one forward pass, pure functions turn it into findings.

Each name loads its module on first use: showing a document needs neither polars nor a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sftloss.analysis._analyze import describe, describe_with_frames
    from sftloss.analysis._identity import file_facts, model_facts, tokenizer_facts
    from sftloss.analysis._lengths import Forecast, LengthOptions, alpha_for_length, forecasts
    from sftloss.analysis._lengths_describe import describe_lengths
    from sftloss.analysis._measure import Settings, measure
    from sftloss.analysis._table import Table, token_stats
    from sftloss.analysis._tilt import (
        EXAMPLE_MEAN,
        SQRT,
        TOKEN_MEAN,
        Lengths,
        Normalisation,
        micro_batch_mean,
        sequence_weights,
    )
    from sftloss.analysis._views import AnalysisOptions, View

__all__ = [
    "EXAMPLE_MEAN",
    "SQRT",
    "TOKEN_MEAN",
    "AnalysisOptions",
    "Forecast",
    "LengthOptions",
    "Lengths",
    "Normalisation",
    "Settings",
    "Table",
    "View",
    "alpha_for_length",
    "describe",
    "describe_lengths",
    "describe_with_frames",
    "file_facts",
    "forecasts",
    "measure",
    "micro_batch_mean",
    "model_facts",
    "sequence_weights",
    "token_stats",
    "tokenizer_facts",
]

_HOME = {
    "EXAMPLE_MEAN": "_tilt",
    "SQRT": "_tilt",
    "TOKEN_MEAN": "_tilt",
    "AnalysisOptions": "_views",
    "Forecast": "_lengths",
    "LengthOptions": "_lengths",
    "Lengths": "_tilt",
    "Normalisation": "_tilt",
    "Settings": "_measure",
    "Table": "_table",
    "View": "_views",
    "alpha_for_length": "_lengths",
    "describe": "_analyze",
    "describe_lengths": "_lengths_describe",
    "describe_with_frames": "_analyze",
    "file_facts": "_identity",
    "forecasts": "_lengths",
    "measure": "_measure",
    "micro_batch_mean": "_tilt",
    "model_facts": "_identity",
    "sequence_weights": "_tilt",
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
