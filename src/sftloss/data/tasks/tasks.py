"""The eight generated tasks: each draws a question with an answer, and checks whether an answer is right.

Each English word is one token of the demo's tokenizer, each Chinese one three.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

WORD_KINDS = {
    "fruits": ("apple", "pear", "plum", "fig", "lime", "melon", "lemon", "peach", "date", "mango"),
    "animals": ("cat", "dog", "cow", "pig", "horse", "sheep", "goat", "duck", "hen", "mouse"),
    "colours": ("red", "blue", "green", "black", "white", "brown", "grey", "pink", "gold", "tan"),
    "tools": ("saw", "axe", "pin", "drill", "file", "knife", "rake", "spade", "nail", "plane"),
}
WORDS = tuple(word for words in WORD_KINDS.values() for word in words)
KIND_OF = {word: kind for kind, words in WORD_KINDS.items() for word in words}

_ANIMALS = dict(
    zip(["cat", "dog", "cow", "pig", "horse", "sheep", "duck", "hen", "mouse"], "猫狗牛猪马羊鸭鸡鼠", strict=True)
)
_COLOURS = dict(
    zip(["red", "blue", "green", "black", "white", "brown", "grey", "pink", "gold"], "红蓝绿黑白棕灰粉金", strict=True)
)
_CHINESE = {"动物": tuple(_ANIMALS.values()), "颜色": tuple(_COLOURS.values())}  # one character a word
_TO_CHINESE = _ANIMALS | _COLOURS
_TO_ENGLISH = {chinese: english for english, chinese in _TO_CHINESE.items()}

UNKNOWN_ANSWER = {"en": "unknown", "zh": "不知道"}
"""The right answer to a question that cannot be answered, by language."""

# numbers of words of a list, each equally often whatever the kind: the spread on which a length exponent acts
_SIZES = {"en": tuple(range(1, 10)), "zh": tuple(range(1, 5))}

CLASSES = {"fruits": 0.5, "animals": 0.25, "colours": 0.15, "tools": 0.1}
"""How often each class is the right one."""


@dataclass(frozen=True)
class Draft:
    """A question, one right answer, and the language the answer is in."""

    prompt: str
    answer: str
    language: str = "en"


@dataclass(frozen=True)
class Task:
    """A task of the studies.

    Attributes:
        name: As in `Record.task`.
        share: Its share of the rows by default.
        draw: A question and an answer from a generator.
        check: From question and answer, 1.0 where it is right and 0.0 where it is wrong; reads the question, so it
            is right about rows whose answer was made wrong on purpose.
        is_open: Whether one question has several right answers. There are few such questions, so training and test
            share them. No question of another task is in both.
        is_answerable: Whether a question can be answered, or None where every question can.
    """

    name: str
    share: float
    draw: Callable[[Random], Draft]
    check: Callable[[str, str], float]
    is_open: bool = False
    is_answerable: Callable[[str], bool] | None = None


def draw_some(random: Random) -> Draft:
    """Distinct words of one kind, their number uniform; three questions of four are English."""
    language = "en" if random.random() < 0.75 else "zh"
    kinds = WORD_KINDS if language == "en" else _CHINESE
    kind = random.choice(tuple(kinds))
    words = random.sample(kinds[kind], k=random.choice(_SIZES[language]))
    return Draft(f"some {kind}", (" " if language == "en" else "").join(words), language)


def check_some(prompt: str, answer: str) -> float:
    """Right: at least one word, all of the kind, none twice."""
    words = _split(prompt, answer)
    return float(bool(words) and len(set(words)) == len(words) and set(words) <= set(_kind(prompt)))


def draw_any(random: Random) -> Draft:
    """One word of a kind, the k-th with a probability proportional to 1/k: a known, uneven distribution."""
    language = "en" if random.random() < 0.75 else "zh"
    kind = random.choice(tuple(WORD_KINDS if language == "en" else _CHINESE))
    words = (WORD_KINDS | _CHINESE)[kind]
    return Draft(f"any {kind}", random.choices(words, [1 / k for k in range(1, len(words) + 1)])[0], language)


def check_any(prompt: str, answer: str) -> float:
    """Right: exactly one word, of the kind."""
    return float(answer in _kind(prompt))


def _kind(prompt: str) -> tuple[str, ...]:
    return (WORD_KINDS | _CHINESE)[prompt.split(" ", 1)[1]]


def _split(prompt: str, answer: str) -> list[str]:
    return list(answer) if prompt.split(" ", 1)[1] in _CHINESE else answer.split(" ")


_THINGS = tuple(word for kind in ("fruits", "animals", "tools") for word in WORD_KINDS[kind])
_BY_FREQUENCY = Random("facts").sample(_THINGS, k=len(_THINGS))
_KNOWN = [thing for i, thing in enumerate(_BY_FREQUENCY) if i % 3 != 2]
FACTS = {thing: Random(f"fact {thing}").choice(WORD_KINDS["colours"]) for thing in _KNOWN}
"""The colours to learn, the most frequent thing first. Every third thing has none."""

_FREQUENCY = [1 / (3 + i) for i in range(len(_BY_FREQUENCY))]
_PHRASES = ("colour {}", "colour: {}?", "{}: colour?", "the {} is", "what is {}?", "qa: {}")


def draw_qa(random: Random) -> Draft:
    """The colour of a thing, from memory, in one of six phrases; the k-th thing as often as 1/(k + 2)."""
    thing = random.choices(_BY_FREQUENCY, _FREQUENCY)[0]
    return Draft(random.choice(_PHRASES).format(thing), FACTS.get(thing, UNKNOWN_ANSWER["en"]))


def check_qa(prompt: str, answer: str) -> float:
    """Right: the colour, or "unknown" where there is none to know."""
    return float(answer == FACTS.get(_thing(prompt), UNKNOWN_ANSWER["en"]))


def is_answerable_qa(prompt: str) -> bool:
    """Whether the thing has a colour."""
    return _thing(prompt) in FACTS


def _thing(prompt: str) -> str:
    """The thing of a question; a KeyError where there is none that is known."""
    things = [word for word in re.findall(r"[a-z]+", prompt) if word in _THINGS]
    if len(things) != 1:
        raise KeyError(prompt)
    return str(things[0])


def draw_compare(random: Random) -> Draft:
    """Is the one larger than the other, in Chinese; one question of four compares a number with an animal."""
    left, right = random.sample(range(100), 2)
    if random.random() < 0.25:
        return Draft(f"{left}比{random.choice(tuple(_ANIMALS))}大吗?", UNKNOWN_ANSWER["zh"], "zh")
    return Draft(f"{left}比{right}大吗?", "是" if left > right else "不是", "zh")


def check_compare(prompt: str, answer: str) -> float:
    """Right: 是 or 不是, or 不知道 where one side is no number."""
    if not is_answerable_compare(prompt):
        return float(answer == UNKNOWN_ANSWER["zh"])
    left, right = prompt.removesuffix("大吗?").split("比")
    return float(answer == ("是" if int(left) > int(right) else "不是"))


def is_answerable_compare(prompt: str) -> bool:
    """Whether both sides are numbers."""
    return all(side.isdecimal() for side in prompt.removesuffix("大吗?").split("比"))


def draw_classify(random: Random) -> Draft:
    """The kind that most of three words are of; one word in a question of two is of another kind."""
    kind = random.choices(tuple(CLASSES), tuple(CLASSES.values()))[0]
    words = random.sample(WORD_KINDS[kind], k=3)
    if random.random() < 0.5:
        words[random.randrange(3)] = random.choice([word for word in WORDS if KIND_OF[word] != kind])
    return Draft(f"kind: {' '.join(words)}", kind)


def check_classify(prompt: str, answer: str) -> float:
    """Right: the kind of at least two of the words."""
    kinds = [KIND_OF[word] for word in prompt.removeprefix("kind: ").split(" ")]
    return float(answer in kinds and kinds.count(answer) >= 2)


def draw_summarise(random: Random) -> Draft:
    """Two to eight words, some of them twice; the answer names the kinds among them, in a fixed order."""
    kinds = random.sample(tuple(WORD_KINDS), k=random.choice((1, 2, 2, 3, 3, 4)))
    words = [random.choice(WORD_KINDS[kind]) for kind in [*kinds, *random.choices(kinds, k=random.randint(1, 4))]]
    random.shuffle(words)
    return Draft(f"sum: {' '.join(words)}", _kinds(words))


def _kinds(words: list[str]) -> str:
    return " ".join(kind for kind in WORD_KINDS if any(KIND_OF[word] == kind for word in words))


def check_summarise(prompt: str, answer: str) -> float:
    """Right: every kind once, in the fixed order."""
    return float(answer == _kinds(prompt.removeprefix("sum: ").split(" ")))


def draw_translate(random: Random) -> Draft:
    """One or two phrases of a colour and an animal, to Chinese three times in five, else to English."""
    count = random.choice((1, 1, 2))
    pairs = zip(random.choices(tuple(_COLOURS), k=count), random.choices(tuple(_ANIMALS), k=count), strict=True)
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


_ALL = (
    Task("some", 0.16, draw_some, check_some, is_open=True),
    Task("any", 0.10, draw_any, check_any, is_open=True),
    Task("classify", 0.24, draw_classify, check_classify),
    Task("qa", 0.16, draw_qa, check_qa, is_answerable=is_answerable_qa),
    Task("compare", 0.14, draw_compare, check_compare, is_answerable=is_answerable_compare),
    Task("summarise", 0.08, draw_summarise, check_summarise),
    Task("translate", 0.08, draw_translate, check_translate),
    Task("add", 0.04, draw_add, check_add),
)
TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _ALL})
"""The tasks of the studies, with the shares they have by default."""

MULTITASK: Mapping[str, float] = MappingProxyType({"qa": 0.25, "summarise": 0.10, "translate": 0.15, "classify": 0.50})
"""Shares for the study of task weights: four tasks of unequal sizes, lengths and difficulties."""
