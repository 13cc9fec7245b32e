"""Questions with one right answer, and questions that have none: remembering facts, comparing numbers, classifying."""

from __future__ import annotations

import re
from random import Random

from sftloss.data.tasks.task import UNKNOWN, Draft
from sftloss.data.tasks.words import ANIMALS, KIND_OF, KINDS, WORDS

CLASSES = {"fruits": 0.5, "animals": 0.25, "colours": 0.15, "tools": 0.1}
"""How often each class is the right one."""

_THINGS = tuple(word for kind in ("fruits", "animals", "tools") for word in KINDS[kind])
_ORDER = Random("facts").sample(_THINGS, k=len(_THINGS))
FACTS = {thing: Random(f"fact {thing}").choice(KINDS["colours"]) for i, thing in enumerate(_ORDER) if i % 3 != 2}
"""What there is to know, from the thing asked about most to the least: a colour, and of every third thing nothing."""

_FREQUENCY = [1 / (3 + i) for i in range(len(_ORDER))]
_PHRASES = ("colour {}", "colour: {}?", "{}: colour?", "the {} is", "what is {}?", "qa: {}")


def draw_qa(random: Random) -> Draft:
    """The colour of a thing, from memory, in one of six phrases; the k-th thing as often as 1/(k + 2)."""
    thing = random.choices(_ORDER, _FREQUENCY)[0]
    return Draft(random.choice(_PHRASES).format(thing), FACTS.get(thing, UNKNOWN["en"]))


def check_qa(prompt: str, answer: str) -> float:
    """Right: the colour, or "unknown" where there is none to know."""
    return float(answer == FACTS.get(_thing(prompt), UNKNOWN["en"]))


def is_answerable_qa(prompt: str) -> bool:
    """Whether the thing has a colour."""
    return _thing(prompt) in FACTS


def _thing(prompt: str) -> str:
    """What is asked about; a KeyError where it is nothing we know."""
    asked = [word for word in re.findall(r"[a-z]+", prompt) if word in _THINGS]
    if len(asked) != 1:
        raise KeyError(prompt)
    return asked[0]


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
