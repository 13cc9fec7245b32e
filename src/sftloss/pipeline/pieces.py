"""Token ids as texts for people, one a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CONTINUED = "·"
_MOST_BYTES = 8  # tokens of one character: four bytes, and flags or combining marks of two
_SPACE = "\u2581"  # how sentencepiece writes the blank before a word, which decoding one token alone drops


def pieces(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """One text a token. A character that several tokens make stands at the first of them, dots at the others.

    Args:
        ids: Token ids, in their order; the first and the last character may be cut.
        tokenizer: A transformers tokenizer.

    Returns:
        As many texts as ids.

    Example:
        >>> pieces(tokenizer("大").input_ids, tokenizer)   # doctest: +SKIP
        ['大', '·', '·']
    """
    words = tokenizer.convert_ids_to_tokens(list(map(int, ids)))
    found: list[str] = []
    at = 0
    while at < len(ids):
        size, text = _character(ids, at, tokenizer)
        has_blank = str(words[at]).startswith(_SPACE) and not text.startswith(" ")
        found += [" " + text if has_blank else text, *[CONTINUED] * (size - 1)]
        at += size
    return found


def _character(ids: Sequence[int], at: int, tokenizer: Any) -> tuple[int, str]:
    """How many tokens from `at` on make whole characters, and their text; one token where none do."""
    alone = tokenizer.decode([int(ids[at])])
    if "\ufffd" not in alone:
        return 1, alone
    for size in range(2, min(_MOST_BYTES, len(ids) - at) + 1):
        text = tokenizer.decode([int(token) for token in ids[at : at + size]])
        if "\ufffd" not in text:
            return size, text
    return 1, alone
