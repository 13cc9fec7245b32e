"""What to do about rows that cannot be used, by reason: one cure each, never one for all."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_SHAPE = "--columns prompt=...,response=... with the data's own column names"

CURES: Mapping[str, str] = MappingProxyType(
    {
        "not-json": "write each row as strict JSON, one row a line",
        "not-utf8": "save the file as UTF-8",
        "line-too-long": "write one row a line; drop a row that is really this long",
        "truncated-row": "copy or download the file again: it was cut off",
        "not-an-object": "write each row as one object of columns",
        "duplicate-key": "keep one of the two keys",
        "non-finite-number": "write null or an ordinary number",
        "lone-surrogate": "repair the escape, or write the character itself",
        "unknown-shape": _SHAPE,
        "empty-messages": "drop these rows, or fill in their conversation",
        "non-string-content": "write the content as text",
        "unsupported-content": "keep the text of these rows, or drop them",
        "unknown-role": "use the roles user, assistant, system and tool",
        "no-response": "give each row an answer of the assistant, or drop it",
        "empty-answer": "drop these rows, or give the empty turn weight 0",
        "bad-weight": "write one finite weight of at least 0",
        "bad-tool-call": "write each call as an object with a name and arguments",
        "bad-tokens": "write input_ids, labels and masks as flat lists of equal length, one sequence a row, unshifted",
        "template-error": "write the conversations as the chat template wants them, or use another template",
        "packed-row": "give the sequences unpacked, one a row",
        "bad-labels": "make labels, weights and roles as long as input_ids and in step with it",
        "too-short": "drop these rows",
        "nothing-trained": "drop these rows, or correct their labels or weights",
        "prefix-broken": "use a template with {% generation %} tags, or split the conversation: each answer the last",
        "truncated-away": "give a larger --max-length, or drop these rows",
    }
)
"""Reason (of READ_REASONS or ENCODE_REASONS) to its cure."""
