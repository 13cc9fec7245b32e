"""What a loss trains on: `measure` streams a table in one forward pass, pure functions turn it into findings."""

from __future__ import annotations

from sftloss.analysis.lengths.collect import AnswerLength, LengthColumns, RowLengths, lengths_of, row_lengths
from sftloss.analysis.lengths.describe import describe_lengths
from sftloss.analysis.lengths.forecast import (
    LengthForecast,
    LengthOptions,
    LengthRange,
    forecasts_by_task,
    length_forecasts,
)
from sftloss.analysis.lengths.tilt import Lengths, sequence_weights
from sftloss.analysis.signal.describe import describe_signal, describe_signal_with_frames
from sftloss.analysis.signal.pairs import paired_section
from sftloss.analysis.signal.views import AnalysisOptions, View
from sftloss.analysis.table.measure import Settings, file_identity, measure, model_identity, tokenizer_identity
from sftloss.analysis.table.store import MeasuredTable, token_stats

__all__ = [
    "AnalysisOptions",
    "AnswerLength",
    "LengthColumns",
    "LengthForecast",
    "LengthOptions",
    "LengthRange",
    "Lengths",
    "MeasuredTable",
    "RowLengths",
    "Settings",
    "View",
    "describe_lengths",
    "describe_signal",
    "describe_signal_with_frames",
    "file_identity",
    "forecasts_by_task",
    "length_forecasts",
    "lengths_of",
    "measure",
    "model_identity",
    "paired_section",
    "row_lengths",
    "sequence_weights",
    "token_stats",
    "tokenizer_identity",
]
