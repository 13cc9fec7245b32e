"""Any SFT file to tokens with roles, weights, task and language; padded or packed batches; the generated demo tasks."""

from __future__ import annotations

from sftloss.data.account import ON_ERROR, Account, Places
from sftloss.data.batches import align, batches, collate, first_fit_decreasing, with_columns
from sftloss.data.encode import Encoding, Examples, encode, encoding_of
from sftloss.data.examples import Batch, Example, Message, Origin, Record, answer_spans, segment_breaks, spoken_roles
from sftloss.data.formats import FORMATS, Format, detect_format, register_format
from sftloss.data.formats.language import script_of
from sftloss.data.formats.record import COLUMN_ROLES
from sftloss.data.read.read import Records, read_records
from sftloss.data.reasons import ROW_REASONS, BadRow, Reason, RowError
from sftloss.data.tokenizer import load_tokenizer, pad_id_of
from sftloss.roles import ROLES

__all__ = [
    "COLUMN_ROLES",
    "FORMATS",
    "ON_ERROR",
    "ROLES",
    "ROW_REASONS",
    "Account",
    "BadRow",
    "Batch",
    "Encoding",
    "Example",
    "Examples",
    "Format",
    "Message",
    "Origin",
    "Places",
    "Reason",
    "Record",
    "Records",
    "RowError",
    "align",
    "answer_spans",
    "batches",
    "collate",
    "detect_format",
    "encode",
    "encoding_of",
    "first_fit_decreasing",
    "load_tokenizer",
    "pad_id_of",
    "read_records",
    "register_format",
    "script_of",
    "segment_breaks",
    "spoken_roles",
    "with_columns",
]
