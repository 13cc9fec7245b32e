"""Questions with many right answers: lists of several lengths, and one word out of several."""

from __future__ import annotations

from random import Random

from sftloss.data.tasks.task import Draft
from sftloss.data.tasks.words import CHINESE, KINDS

SIZES = {"en": tuple(range(1, 10)), "zh": tuple(range(1, 5))}
"""How many words a list may have, each equally often whatever the kind: the spread on which a length exponent acts."""


def draw_some(random: Random) -> Draft:
    """Distinct words of one kind, their number uniform; three questions of four are English."""
    language = "en" if random.random() < 0.75 else "zh"
    kinds = KINDS if language == "en" else CHINESE
    kind = random.choice(tuple(kinds))
    words = random.sample(kinds[kind], k=random.choice(SIZES[language]))
    return Draft(f"some {kind}", (" " if language == "en" else "").join(words), language)


def check_some(prompt: str, answer: str) -> float:
    """Right: at least one word, all of the kind, none twice."""
    words = _split(prompt, answer)
    return float(bool(words) and len(set(words)) == len(words) and set(words) <= set(_kind(prompt)))


def draw_any(random: Random) -> Draft:
    """One word of a kind, the k-th with a probability proportional to 1/k: a known, uneven distribution."""
    language = "en" if random.random() < 0.75 else "zh"
    kind = random.choice(tuple(KINDS if language == "en" else CHINESE))
    words = (KINDS | CHINESE)[kind]
    return Draft(f"any {kind}", random.choices(words, [1 / k for k in range(1, len(words) + 1)])[0], language)


def check_any(prompt: str, answer: str) -> float:
    """Right: exactly one word, of the kind."""
    return float(answer in _kind(prompt))


def _kind(prompt: str) -> tuple[str, ...]:
    return (KINDS | CHINESE)[prompt.split(" ", 1)[1]]


def _split(prompt: str, answer: str) -> list[str]:
    return list(answer) if prompt.split(" ", 1)[1] in CHINESE else answer.split(" ")
