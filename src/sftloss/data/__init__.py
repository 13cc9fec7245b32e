"""Any SFT file to tokens with roles, weights, task and language; padded or packed batches; the generated demo tasks."""

from __future__ import annotations

from sftloss.data.batches import IGNORED, align, batches, collate
from sftloss.data.cures import CURES
from sftloss.data.encode import ENCODE_REASONS, RowError, encode, encode_records
from sftloss.data.examples import Batch, Example, Message, Origin, Record, answer_spans, segment_breaks
from sftloss.data.formats.columns import COLUMNS, FORMATS
from sftloss.data.formats.formats import detect_format
from sftloss.data.language import script_of
from sftloss.data.packing import first_fit_decreasing
from sftloss.data.read.read import ReadBounds, Records, read_records
from sftloss.data.read.report import READ_REASONS, READ_WARNINGS, BadRow, ReadReport
from sftloss.data.tokenizer import load_tokenizer, pad_id_of
from sftloss.roles import ROLES

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
    "load_tokenizer",
    "pad_id_of",
    "read_records",
    "script_of",
    "segment_breaks",
]
