"""Rows with one text, trained as it is."""

from __future__ import annotations

from sftloss.data.formats.format import Format, RawRow, as_text, required
from sftloss.data.reasons import BadRow


def _text(row: RawRow) -> str:
    text = as_text(required(row, "text"), "text")
    if not text.strip():
        raise BadRow("empty-answer", "text is empty; remove the row")
    return text


TEXT = Format(
    "text",
    lambda row: "text" in row,
    _text,
    "`text`: trained whole, nothing is stripped; an end-of-sequence token is added where there is none",
    {"text": "Once upon a time there was a fox."},
    order=90,
)
