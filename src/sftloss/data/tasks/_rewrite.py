"""Text to text with one right answer: summarising, translating, adding."""

from __future__ import annotations

from random import Random

from sftloss.data.tasks._task import Draft
from sftloss.data.tasks._words import ANIMALS, COLOURS, WORDS

_TO_CHINESE = ANIMALS | COLOURS
_TO_ENGLISH = {chinese: english for english, chinese in _TO_CHINESE.items()}


def draw_summarise(random: Random) -> Draft:
    """Two to seven words, each said one to three times; the answer says each once."""
    words = random.sample(WORDS, k=random.randint(2, 7))
    said = [word for word in words for _ in range(random.randint(1, 3))]
    return Draft(f"sum: {' '.join(said)}", " ".join(words))


def check_summarise(prompt: str, answer: str) -> float:
    """Right: every word once, in the order of the text."""
    return float(answer.split(" ") == list(dict.fromkeys(prompt.removeprefix("sum: ").split(" "))))


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
    """A number of up to two digits and one of one digit, in either order."""
    numbers = [random.randrange(100), random.randrange(10)]
    random.shuffle(numbers)
    return Draft(f"{numbers[0]} + {numbers[1]} =", str(sum(numbers)))


def check_add(prompt: str, answer: str) -> float:
    """Right: the sum, in plain digits."""
    return float(answer == str(sum(int(number) for number in prompt.removesuffix(" =").split(" + "))))
