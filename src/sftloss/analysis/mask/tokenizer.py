"""A tokenizer alone, from a directory or the hub: an inspection reads no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sftloss.errors import ModelError


def load_tokenizer(name: str | Path, *, revision: str | None = None) -> Any:
    """The tokenizer of a model, without running code of its repository.

    Raises:
        ModelError: If it cannot be loaded.
    """
    from transformers import AutoTokenizer

    text = str(name)
    is_local = text.startswith((".", "/", "~")) or text.count("/") > 1
    path = Path(text).expanduser()
    if (is_local or path.exists()) and not path.is_dir():
        raise ModelError(f"tokenizer: {text} is {'a file' if path.exists() else 'missing'}; give a model's directory.")
    try:
        return AutoTokenizer.from_pretrained(str(path) if path.is_dir() else text, revision=revision)
    except Exception as error:  # transformers, tokenizers and the hub share no base class
        told = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ModelError(f"tokenizer: cannot load {text}: {told}; give a directory with tokenizer.json.") from error
