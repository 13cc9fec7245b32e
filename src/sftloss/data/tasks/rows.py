"""Rows of the generated tasks from a seed, and their checkers."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from random import Random

from sftloss.data.examples import Message, Origin, Record
from sftloss.data.tasks.tasks import TASKS, UNKNOWN_ANSWER, Draft, Task

SPLITS = ("train", "test")
NOISE = "noise"
"""`Record.source` of a row whose answer was made wrong on purpose; other rows have ``"clean"``."""

_FOLDS = 5  # one question in five is a test question


def study_rows(
    seed: int,
    count: int,
    *,
    split: str = "train",
    noise: float = 0.0,
    tasks: Mapping[str, float] | Sequence[str] | None = None,
) -> tuple[Record, ...]:
    """Instruction data of the generated tasks, as messages with task and language.

    Everything is drawn with Python's own generator, so it is the same on every machine. Whether a question belongs
    to training or to the test is a hash of its words, so no question of a task with one right answer is in both,
    whatever the seeds; the few questions with many right answers (`Task.is_open`) are in both.

    Args:
        seed: Equal seeds give equal rows.
        count: Number of rows. Each task has its share of them, exactly up to rounding, in random order.
        split: ``"train"`` or ``"test"``.
        noise: Fraction of rows whose answer is one that the task's checker calls wrong, taken from another question
            of the task; exactly ``round(noise * count)`` rows, spread over all tasks at random, and marked by
            ``source == "noise"``.
        tasks: Names, with the shares they have in `TASKS` rescaled, or names with shares (any positive numbers).

    Returns:
        The rows; ``source`` is ``"clean"`` or ``"noise"``.

    Raises:
        ValueError: If an argument is impossible or a task unknown.

    Example:
        >>> [message.content for message in study_rows(0, 1, tasks=["add"])[0].messages]
        ['10 + 16 =', '26']
    """
    _check_arguments(count, split, noise)
    random = Random(f"study {split} {seed}")
    names = tasks_of_rows(count, _shares(tasks))
    random.shuffle(names)
    noisy = set(random.sample(range(count), k=round(noise * count)))
    return tuple(
        _row(TASKS[name], Origin(f"study-{split}-{seed}", i), i in noisy, random) for i, name in enumerate(names)
    )


def _check_arguments(count: int, split: str, noise: float) -> None:
    if count < 1:
        raise ValueError(f"study_rows: count must be at least 1, got {count}.")
    if split not in SPLITS:
        raise ValueError(f"study_rows: split must be one of {', '.join(SPLITS)}, got {split!r}.")
    if not 0 <= noise <= 1:
        raise ValueError(f"study_rows: noise must be a fraction between 0 and 1, got {noise}.")


def _shares(tasks: Mapping[str, float] | Sequence[str] | None) -> dict[str, float]:
    chosen = tuple(TASKS) if tasks is None else tasks
    shares = dict(chosen) if isinstance(chosen, Mapping) else None
    unknown = [name for name in chosen if name not in TASKS]
    if unknown or not chosen:
        named = f"there is no task {unknown[0]!r}" if unknown else "no task is named"
        raise ValueError(f"study_rows: {named}; the tasks are {', '.join(TASKS)}.")
    shares = shares or {name: TASKS[name].share for name in chosen}
    if not all(share > 0 for share in shares.values()):
        raise ValueError(f"study_rows: every share must be above 0, got {shares}.")
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def tasks_of_rows(count: int, shares: Mapping[str, float]) -> list[str]:
    """The name of a task for each row: each task has its share of them, exactly up to rounding."""
    names: list[str] = []
    bound = 0.0
    for name, share in shares.items():
        bound += share
        names += [name] * (round(bound * count) - len(names))
    return names


def _row(task: Task, origin: Origin, is_noisy: bool, random: Random) -> Record:
    split = origin.path.split("-")[1]
    draft = _draw(task, split, random)
    answer = _wrong(task, draft, random) if is_noisy else draft.answer
    return Record(
        origin=origin,
        messages=(Message("user", draft.prompt), Message("assistant", answer)),
        task=task.name,
        language=draft.language,
        source=NOISE if is_noisy else "clean",
    )


def _draw(task: Task, split: str, random: Random) -> Draft:
    while True:
        draft = task.draw(random)
        if task.is_open or (zlib.crc32(draft.prompt.encode()) % _FOLDS == 0) == (split == "test"):
            return draft


def _wrong(task: Task, draft: Draft, random: Random) -> str:
    """The answer to another question in the same language that is wrong for this one. Its form is right."""
    while True:
        other = task.draw(random)
        if other.language == draft.language and not task.check(draft.prompt, other.answer):
            return other.answer


def question(record: Record) -> str:
    """The last user message of a conversation, or nothing."""
    return next((m.content for m in reversed(record.messages or ()) if m.role == "user"), "")


def reference_answer(record: Record) -> str:
    """The last assistant message of a conversation, or nothing."""
    return next((m.content for m in reversed(record.messages or ()) if m.role == "assistant"), "")


def check_answer(task: Record | str | None, prompt: str, answer: str) -> float | None:
    """Score of an answer.

    Args:
        task: A task's name, or the row. A row of no generated task whose own answer ends in ``#### number``, as
            GSM8K's do, is checked by the last number after ``####`` (or the last number at all).
        prompt: The question.
        answer: What was generated, without special tokens; white space at its ends does not count.

    Returns:
        1.0 right, 0.0 wrong, None where there is no checker. To a question that cannot be answered only "unknown"
        (不知道) is right, and to one that can it is wrong.

    Example:
        >>> [check_answer("any", "any fruits", answer) for answer in ("fig", "cat")], check_answer("poem", "", "")
        ([1.0, 0.0], None)
    """
    name = task.task if isinstance(task, Record) else task
    if name is not None and name in TASKS:
        try:
            return TASKS[name].check(prompt, answer.strip())
        except (KeyError, ValueError, IndexError):
            return None  # a task of this name whose questions are somebody else's
    if isinstance(task, Record) and "####" in (own := reference_answer(task)):
        return float(_number(answer) is not None and _number(answer) == _number(own))
    return None


def _number(text: str) -> float | None:
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text.rsplit("####", 1)[-1])
    return float(numbers[-1].replace(",", "")) if numbers else None


def is_answerable(task: Record | str | None, prompt: str) -> bool | None:
    """Whether a question has an answer; None where all questions of the task have one, or it is unknown."""
    name = task.task if isinstance(task, Record) else task
    check = TASKS[name].is_answerable if name is not None and name in TASKS else None
    try:
        return None if check is None else check(prompt)
    except (KeyError, ValueError, IndexError):
        return None


def abstains(answer: str) -> bool:
    """Whether an answer says that it is not known, in either language."""
    return answer.strip() in UNKNOWN_ANSWER.values()
