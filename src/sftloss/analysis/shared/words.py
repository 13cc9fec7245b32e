"""Normalizations, groups and shares in sentences for readers who have read no manual."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sftloss.weights import Normalization
from sftloss.words import percent

_CLAUSES = {0.0: "every token counts alike", 1.0: "every example is averaged first"}
_SUBJECTS = {0.0: "Counting every token alike", 1.0: "Averaging every example first"}
_SCRIPTS = {"script:none": "no letters", "script:Mixed": "mixed scripts"}

_BATCHES = {"random": "sequences drawn at random", "by-length": "sequences of similar length", "packed": "packed rows"}

TWO_ENDS = (
    "The mean within prompts compares only answers to the same prompt. The mean at the bound compares all answers, as "
    "if their length did not depend on the prompt."
)
WHERE_IN_THE_RANGE = (
    f"{TWO_ENDS} Long training on the same prompts ends at the mean within prompts. Short training, a small model and "
    "unseen prompts stay nearer to the bound. Greedy decoding follows the most frequent length, which may lie outside."
)
ALL_CUT = "The lengths of the answers are not known: all of them are cut off."


def as_clause(normalization: Normalization) -> str:
    """A clause after "if" or "when": "every example is averaged first"."""
    if normalization.micro_batch is not None:
        return f"every micro-batch of {normalization.micro_batch:,} {_BATCHES[normalization.batches]} is averaged first"
    return _CLAUSES.get(normalization.alpha, f"every example is divided by {_length(normalization.alpha)}")


def as_subject(normalization: Normalization) -> str:
    """The same as the subject of a sentence: "Averaging every example first"."""
    if normalization.micro_batch is not None:
        return f"Averaging every micro-batch of {normalization.micro_batch:,} {_BATCHES[normalization.batches]} first"
    return _SUBJECTS.get(normalization.alpha, f"Dividing every example by {_length(normalization.alpha)}")


def _length(alpha: float) -> str:
    return "the square root of its length" if alpha == 0.5 else f"its length to the power {alpha:g}"


def label_of(column: str, label: str) -> str:
    """A group's name in a table: a detected script is not the data's own word."""
    if column == "language" and label.startswith("script:"):
        return _SCRIPTS.get(label, f"{label.removeprefix('script:')} script")
    return label


def group_name(column: str, label: str) -> str:
    """A group as the subject of a sentence; `label` as `label_of` gives it."""
    if label == "(none)":
        return f"The group without a {column}"
    if column == "language" and (label.endswith(" script") or label in _SCRIPTS.values()):
        return f"Text {'with' if label == 'no letters' else 'in'} {label}"
    return f"The {column} '{label}'" if not label.endswith(" smaller groups") else f"The {label}"


def inside_sentence(name: str) -> str:
    """A group's name inside a sentence."""
    return name[0].lower() + name[1:]


def tokens_and_signal(tokens: float, signal: float) -> str:
    """Two shares as the predicate of a sentence: "has 24 % of the tokens but 51 % of the training signal"."""
    joint = "and" if math.isclose(signal, tokens, rel_tol=0.25) else "but"
    only = "only " if signal < tokens / 2 else ""
    return f"has {percent(tokens)} of the tokens {joint} {only}{percent(signal)} of the training signal"


def alternative(shares: Sequence[float], rules: Sequence[Normalization]) -> str:
    """How far another normalization moves a share, in brackets: " (37 % if every example is averaged first)".

    Args:
        shares: The share under each rule; the first is in use.
        rules: The normalizations.

    Returns:
        The bracket for the rule that moves it most; empty where none changes what is written.
    """
    far = int(np.argmax(np.abs(np.nan_to_num(np.array(shares) - shares[0]))))
    if percent(shares[far]) == percent(shares[0]):
        return ""
    return f" ({percent(shares[far])} if {as_clause(rules[far])})"
