"""Any SFT file to tokens with roles, weights, task and language; padded or packed batches; the generated demo tasks."""

from __future__ import annotations

from sftloss.data._batches import IGNORED, align, batches, collate
from sftloss.data._cures import CURES
from sftloss.data._encode import ENCODE_REASONS, RowError, encode, encode_records
from sftloss.data._formats import detect_format
from sftloss.data._formats_columns import COLUMNS, FORMATS
from sftloss.data._language import script_of
from sftloss.data._packing import first_fit_decreasing
from sftloss.data._read import ReadBounds, Records, read_records
from sftloss.data._read_report import READ_REASONS, READ_WARNINGS, BadRow, ReadReport
from sftloss.data.records import (
    ROLES,
    Batch,
    Example,
    Message,
    Origin,
    Record,
    answer_spans,
    segment_breaks,
)

__all__ = [
    "COLUMNS",
    "CURES",
    "ENCODE_REASONS",
    "FORMATS",
    "IGNORED",
    "READ_REASONS",
    "READ_WARNINGS",
    "ROLES",
    "BadRow",
    "Batch",
    "Example",
    "Message",
    "Origin",
    "ReadBounds",
    "ReadReport",
    "Record",
    "Records",
    "RowError",
    "align",
    "answer_spans",
    "batches",
    "collate",
    "detect_format",
    "encode",
    "encode_records",
    "first_fit_decreasing",
    "read_records",
    "script_of",
    "segment_breaks",
]
