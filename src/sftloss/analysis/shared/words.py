"""How normalizations, groups and shares are said in a sentence to someone who has read no manual."""

from __future__ import annotations

import math

from sftloss.weights import Normalization
from sftloss.words import percent

_COUNTED = {0.0: "every token counts alike", 1.0: "every example is averaged first"}
_DOING = {0.0: "Counting every token alike", 1.0: "Averaging every example first"}
_SCRIPTS = {"script:none": "Text without letters", "script:Mixed": "Text in mixed scripts"}
_PLAIN = {"script:none": "no letters", "script:Mixed": "mixed scripts"}

ALL_CUT = "How long answers are this data does not say: all of them are cut off."


def counted(normalization: Normalization) -> str:
    """A clause after "if" or "when": "every example is averaged first"."""
    if normalization.micro_batch is not None:
        return f"every micro-batch of {normalization.micro_batch} is averaged first"
    return _COUNTED.get(normalization.alpha, f"every example is divided by {_length(normalization.alpha)}")


def doing(normalization: Normalization) -> str:
    """The same as the subject of a sentence: "Averaging every example first"."""
    if normalization.micro_batch is not None:
        return f"Averaging every micro-batch of {normalization.micro_batch} first"
    return _DOING.get(normalization.alpha, f"Dividing every example by {_length(normalization.alpha)}")


def _length(alpha: float) -> str:
    return "the square root of its length" if alpha == 0.5 else f"its length to the power {alpha:g}"


def label_of(column: str, label: str) -> str:
    """A group's name in a table: a detected script is not the data's own word."""
    if column == "language" and label.startswith("script:"):
        return _PLAIN.get(label, f"{label.removeprefix('script:')} script")
    return label


def group_name(column: str, label: str) -> str:
    """A group as the subject of a sentence; `label` as `label_of` gives it."""
    if label == "(none)":
        return f"What has no {column}"
    if column == "language" and (label.endswith(" script") or label in _PLAIN.values()):
        return {v: _SCRIPTS[k] for k, v in _PLAIN.items()}.get(label, f"Text in {label}")
    return f"The {column} '{label}'" if not label.endswith(" smaller groups") else f"The {label}"


def holds_and_takes(tokens: float, signal: float) -> str:
    """Two shares in a clause: "is 24 % of the tokens but takes 51 % of the training signal"."""
    verb = "and takes" if math.isclose(signal, tokens, rel_tol=0.25) else "but takes"
    only = " only" if signal < tokens / 2 else ""
    return f"is {percent(tokens)} of the tokens {verb}{only} {percent(signal)} of the training signal"


def by_times(ratio: float) -> str:
    """A ratio of shares in words: "2.3 times its part", "22 times less than its part"."""
    if not ratio > 0 or not math.isfinite(ratio):
        return "none of its part" if ratio == 0 else "an undefined part"
    size = max(ratio, 1 / ratio)
    said = f"{size:.0f}" if size >= 9.95 else f"{size:.1f}"
    return f"{said} times its part" if ratio >= 1 else f"{said} times less than its part"
