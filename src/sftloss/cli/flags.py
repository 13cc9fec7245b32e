"""Errors in the words of the command line: what Python calls ``max_length=8`` is ``--max-length 8`` there."""

from __future__ import annotations

import re
from collections.abc import Iterable

# the public functions whose names begin their errors; a file may be called anything else that looks like one
_FUNCTIONS = (
    "read_records", "load_model", "open_decoder", "decoder", "objective", "analyze", "lengths", "measure", "take_part",
    "describe", "report", "tokenizer", "ReadBounds", "LengthOptions", "AnalysisOptions",
)  # fmt: skip
_START = r"(?<![\w./-])"
_PREFIX = re.compile(rf"^(?:{'|'.join(_FUNCTIONS)}): ")


def in_flags(sentence: str, names: Iterable[str]) -> str:
    """`sentence` without the name of a function before it, options by their flags.

    Args:
        sentence: An error of any room.
        names: The options that the verb at hand has; no other word is touched.

    Example:
        >>> in_flags("read_records: limit 0; on_error='skip' goes on, as does max_length.", ["on_error", "max_length"])
        'limit 0; --on-error skip goes on, as does --max-length.'
    """
    told = _PREFIX.sub("", sentence)
    for name in names:
        flag = f"--{name.replace('_', '-')}"
        told = re.sub(rf"{_START}{name}=(?:'([^']*)'|(?=[\w<]))", rf"{flag} \1", told)
        if "_" in name or name == "columns":
            pairs = r"(?= \w+=)" if name == "columns" else r"(?![\w/=]|\.\w)"
            told = re.sub(rf"{_START}{name}{pairs}", flag, told)
    return told
