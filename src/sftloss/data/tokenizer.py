"""A tokenizer by itself: loading one, the ids that every room needs from it, and token ids as texts for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sftloss.errors import ModelError, quoted
from sftloss.models import model_folder

CONTINUED = "·"
"""What :func:`pieces` gives for the other tokens of a character that several tokens make."""

_UNLIMITED = 10**9  # tokenizers without a limit name a number above it
_MOST_BYTES = 8  # tokens of one character: four bytes, and flags or combining marks of two
_SPACE = "\u2581"  # how sentencepiece writes the blank before a word, which decoding one token alone drops


def load_tokenizer(
    name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False, option: str = "tokenizer"
) -> Any:
    """Load the tokenizer of a model; no weights are read.

    Args:
        name: A model's folder, its name on the Hub (downloaded, or read from the cache when offline), ``"demo"``, or
            ``"smollm2"``.
        revision: Branch, tag or commit of a Hub model.
        trust_remote_code: Whether code from the model's repository may run.
        option: Option that gave the name, for errors.

    Raises:
        ModelError: If it cannot be loaded.
    """
    from transformers import AutoTokenizer

    text = model_folder(name)
    is_local = text.startswith((".", "/", "~")) or text.count("/") > 1
    path = Path(text).expanduser()
    if (is_local or path.exists()) and not path.is_dir():
        raise ModelError(
            f"{text} is {'a file' if path.exists() else 'missing'}", option=option, cure="give a model's folder"
        )
    source = str(path) if path.is_dir() else text
    try:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers, tokenizers and the Hub share no base class
        raise ModelError(
            f"cannot load {text}: {quoted(error)}", option=option, cure="give a folder with tokenizer.json"
        ) from error


class Limits(NamedTuple):
    """What a model takes: tokens of a row and ids of the vocabulary; None where it is unknown."""

    context: int | None
    vocabulary: int


def limits_of(tokenizer: Any) -> Limits:
    """The limits that the tokenizer and the configuration beside it name."""
    config: dict[str, Any] = {}
    with suppress(OSError, ValueError, AttributeError):  # no folder, no file, no JSON: the tokenizer's own limits
        config = json.loads((Path(str(tokenizer.name_or_path)) / "config.json").read_text("utf-8"))
    sizes = [getattr(tokenizer, "model_max_length", None), config.get("max_position_embeddings")]
    known = [size for size in sizes if isinstance(size, int) and 0 < size < _UNLIMITED]
    words = config.get("vocab_size")
    return Limits(min(known, default=None), max(len(tokenizer), words if isinstance(words, int) else 0))


def pad_id_of(tokenizer: Any) -> int:
    """The id to pad with: the pad token, else the end of the sequence, else 0. Padding is masked, so any id will do."""
    for name in ("pad_token_id", "eos_token_id"):
        if (token := getattr(tokenizer, name, None)) is not None:
            return int(token)
    return 0


def eos_ids(tokenizer: Any) -> frozenset[int]:
    """The id of the end-of-sequence token; empty where the tokenizer has none."""
    return frozenset() if tokenizer.eos_token_id is None else frozenset({int(tokenizer.eos_token_id)})


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of all special tokens, those added to the vocabulary among them."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}


def pieces(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """One text a token. A character that several tokens make is the text of the first of them, dots are the others'.

    Args:
        ids: Token ids, in their order; the first and the last character may be cut.
        tokenizer: A transformers tokenizer.

    Returns:
        As many texts as ids.

    Example:
        >>> pieces(tokenizer("大").input_ids, tokenizer)   # doctest: +SKIP
        ['大', '·', '·']
    """
    return [text for size, first in characters(ids, tokenizer) for text in (first, *[CONTINUED] * (size - 1))]


def characters(ids: Sequence[int], tokenizer: Any) -> Iterator[tuple[int, str]]:
    """Token ids as texts of whole characters, each with its number of tokens; one token where none can be formed."""
    words = tokenizer.convert_ids_to_tokens(list(map(int, ids)))
    at = 0
    while at < len(ids):
        size, text = 1, tokenizer.decode([int(ids[at])])
        for longer in range(2, min(_MOST_BYTES, len(ids) - at) + 1) if "\ufffd" in text else ():
            joined = tokenizer.decode([int(token) for token in ids[at : at + longer]])
            if "\ufffd" not in joined:
                size, text = longer, joined
                break
        has_blank = str(words[at]).startswith(_SPACE) and not text.startswith(" ")
        yield size, " " + text if has_blank else text
        at += size
