"""A tokenizer by itself: loading one, and the ids that every room needs from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sftloss.data.demo import model_folder
from sftloss.errors import ModelError


def load_tokenizer(name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a model; no weights are read.

    Args:
        name: A model's folder, its name on the Hub (downloaded, or read from the cache when offline), or ``"demo"``.
        revision: Branch, tag or commit of a Hub model.
        trust_remote_code: Whether code from the model's repository may run.

    Raises:
        ModelError: If it cannot be loaded.
    """
    from transformers import AutoTokenizer

    text = model_folder(name)
    is_local = text.startswith((".", "/", "~")) or text.count("/") > 1
    path = Path(text).expanduser()
    if (is_local or path.exists()) and not path.is_dir():
        raise ModelError(
            f"{text} is {'a file' if path.exists() else 'missing'}", option="tokenizer", cure="give a model's folder"
        )
    source = str(path) if path.is_dir() else text
    try:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers, tokenizers and the Hub share no base class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ModelError(
            f"cannot load {text}: {reason}", option="tokenizer", cure="give a folder with tokenizer.json"
        ) from error


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
