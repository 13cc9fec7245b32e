"""Questions with one right answer, and questions that have none: reading facts, comparing numbers, classifying."""

from __future__ import annotations

from random import Random

from sftloss.data.tasks._task import UNKNOWN, Draft
from sftloss.data.tasks._words import ANIMALS, KIND_OF, KINDS, WORDS

CLASSES = {"fruits": 0.5, "animals": 0.25, "colours": 0.15, "tools": 0.1}
"""How often each class is the right one."""

_ANIMALS, _COLOURS = KINDS["animals"], KINDS["colours"]


def draw_qa(random: Random) -> Draft:
    """Colours of two or three animals, then one animal: of the facts two times in three, else unknown."""
    animals = random.sample(_ANIMALS, k=random.choice((2, 3)) + 1)
    facts = dict(zip(animals[1:], random.choices(_COLOURS, k=len(animals) - 1), strict=True))
    asked = random.choice(animals[1:]) if random.random() < 2 / 3 else animals[0]
    prompt = "qa: " + ", ".join(f"{animal} {colour}" for animal, colour in facts.items()) + f"? {asked}"
    return Draft(prompt, facts.get(asked, UNKNOWN["en"]))


def check_qa(prompt: str, answer: str) -> float:
    """Right: the colour of the facts, or "unknown" where they do not say."""
    facts, asked = _read_qa(prompt)
    return float(answer == facts.get(asked, UNKNOWN["en"]))


def is_answerable_qa(prompt: str) -> bool:
    """Whether the facts name the animal."""
    facts, asked = _read_qa(prompt)
    return asked in facts


def _read_qa(prompt: str) -> tuple[dict[str, str], str]:
    text, asked = prompt.removeprefix("qa: ").split("? ")
    return {animal: colour for animal, colour in (fact.split(" ") for fact in text.split(", "))}, asked


def draw_compare(random: Random) -> Draft:
    """Is the one larger than the other, in Chinese; one question of four compares a number with an animal."""
    left, right = random.sample(range(100), 2)
    if random.random() < 0.25:
        return Draft(f"{left}比{random.choice(tuple(ANIMALS))}大吗?", UNKNOWN["zh"], "zh")
    return Draft(f"{left}比{right}大吗?", "是" if left > right else "不是", "zh")


def check_compare(prompt: str, answer: str) -> float:
    """Right: 是 or 不是, or 不知道 where one side is no number."""
    if not is_answerable_compare(prompt):
        return float(answer == UNKNOWN["zh"])
    left, right = prompt.removesuffix("大吗?").split("比")
    return float(answer == ("是" if int(left) > int(right) else "不是"))


def is_answerable_compare(prompt: str) -> bool:
    """Whether both sides are numbers."""
    return all(side.isdecimal() for side in prompt.removesuffix("大吗?").split("比"))


def draw_classify(random: Random) -> Draft:
    """The kind that most of three words are of; one word in a question of two is of another kind."""
    kind = random.choices(tuple(CLASSES), tuple(CLASSES.values()))[0]
    words = random.sample(KINDS[kind], k=3)
    if random.random() < 0.5:
        words[random.randrange(3)] = random.choice([word for word in WORDS if KIND_OF[word] != kind])
    return Draft(f"kind: {' '.join(words)}", kind)


def check_classify(prompt: str, answer: str) -> float:
    """Right: the kind of at least two of the words."""
    kinds = [KIND_OF[word] for word in prompt.removeprefix("kind: ").split(" ")]
    return float(answer in kinds and kinds.count(answer) >= 2)
