"""What a generated task is: it draws a question with an answer, and it can tell a right answer from a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

UNKNOWN = {"en": "unknown", "zh": "不知道"}
"""The right answer to a question that cannot be answered, by language."""


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
        share: Part of the rows that it has where nothing else is asked for.
        purpose: What difference between losses it is there to show.
        draw: A question and an answer from a generator.
        check: From question and answer, 1.0 where it is right and 0.0 where it is wrong; reads the question, so it
            is right about rows whose answer was made wrong on purpose.
        is_open: Whether one question has several right answers. There are few such questions, so training and test
            share them; the questions of all other tasks are never in both.
        is_answerable: Whether a question can be answered, or None where every question can.
    """

    name: str
    share: float
    purpose: str
    draw: Callable[[Random], Draft]
    check: Callable[[str, str], float]
    is_open: bool = False
    is_answerable: Callable[[str], bool] | None = None
