"""Text to text with one right answer: summarising, translating, adding."""

from __future__ import annotations

from random import Random

from sftloss.data.tasks.task import Draft
from sftloss.data.tasks.words import ANIMALS, COLOURS, KIND_OF, KINDS

_TO_CHINESE = ANIMALS | COLOURS
_TO_ENGLISH = {chinese: english for english, chinese in _TO_CHINESE.items()}


def draw_summarise(random: Random) -> Draft:
    """Two to eight words, some of them twice; the answer names the kinds among them, in a fixed order."""
    kinds = random.sample(tuple(KINDS), k=random.choice((1, 2, 2, 3, 3, 4)))
    words = [random.choice(KINDS[kind]) for kind in [*kinds, *random.choices(kinds, k=random.randint(1, 4))]]
    random.shuffle(words)
    return Draft(f"sum: {' '.join(words)}", _kinds(words))


def _kinds(words: list[str]) -> str:
    return " ".join(kind for kind in KINDS if any(KIND_OF[word] == kind for word in words))


def check_summarise(prompt: str, answer: str) -> float:
    """Right: every kind once, in the fixed order."""
    return float(answer == _kinds(prompt.removeprefix("sum: ").split(" ")))


def draw_translate(random: Random) -> Draft:
    """One or two phrases of a colour and an animal, to Chinese three times in five, else to English."""
    count = random.choice((1, 1, 2))
    pairs = zip(random.choices(tuple(COLOURS), k=count), random.choices(tuple(ANIMALS), k=count), strict=True)
    words = [word for pair in pairs for word in pair]
    english, chinese = " ".join(words), "".join(_TO_CHINESE[word] for word in words)
    if random.random() < 0.6:
        return Draft(f"zh: {english}", chinese, "zh")
    return Draft(f"en: {chinese}", english, "en")


def check_translate(prompt: str, answer: str) -> float:
    """Right: word for word."""
    to, text = prompt.split(": ", 1)
    if to == "zh":
        return float(answer == "".join(_TO_CHINESE[word] for word in text.split(" ")))
    return float(answer == " ".join(_TO_ENGLISH[character] for character in text))


def draw_add(random: Random) -> Draft:
    """Two numbers below 20."""
    left, right = random.randrange(20), random.randrange(20)
    return Draft(f"{left} + {right} =", str(left + right))


def check_add(prompt: str, answer: str) -> float:
    """Right: the sum, in plain digits."""
    return float(answer == str(sum(int(number) for number in prompt.removesuffix(" =").split(" + "))))
