"""Chat templates by name: a file, one of TRL's, and the training template of a template's family."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sftloss.errors import ConfigError, mention
from sftloss.registry import closest

_TRAINING, _VERSION = "_training", re.compile(r"_v\d+$")


@cache
def trl_templates() -> dict[str, str]:
    """The chat templates in the TRL package by name; none where it is not installed. TRL itself is not imported."""
    spec = find_spec("trl")
    folders = [Path(place) / "chat_templates" for place in (spec.submodule_search_locations or ())] if spec else []
    files = (file for folder in folders for file in sorted(folder.glob("*.jinja")))
    return {file.stem: file.read_text("utf-8") for file in files}


def training_template(text: str) -> str | None:
    """The name of TRL's training template for the family of a template; None where there is none.

    Example:
        >>> training_template("no such template")
    """
    known = trl_templates()
    plain = " ".join(text.split())
    name = next((name for name, other in known.items() if " ".join(other.split()) == plain), None)
    while name is not None and not name.endswith(_TRAINING):
        if name + _TRAINING in known:
            return name + _TRAINING
        name = _VERSION.sub("", name) if _VERSION.search(name) else None  # a later revision of the same template
    return None


def read_template(name: str | None, tokenizer: object = None) -> str | None:
    """The template that an option names: a file, a name in TRL, or one of the tokenizer's; None where it names none.

    Raises:
        ConfigError: If there is no such template, or the file cannot be read.
    """
    if name is None or "{%" in name or "{{" in name:
        return name
    if (known := trl_templates()).get(name):
        return known[name]
    own = getattr(tokenizer, "chat_template", None)
    if isinstance(own, dict) and name in own:
        return str(own[name])
    path = Path(name).expanduser()
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        near = closest(name, known) if path.suffix == "" else ""
        problem = f"{name} cannot be read ({type(error).__name__}){near}"
        cure = f"give {mention('template')} a text file, or the name of a template in TRL, as qwen3_training"
        raise ConfigError(problem, option="template", cure=cure) from error
