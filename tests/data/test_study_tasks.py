"""The generated tasks of the studies: right answers, marked noise, questions apart, several answers where promised."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import lru_cache

import pytest

from sftloss.data import encode
from sftloss.data.demo import demo_tokenizer
from sftloss.data.examples import Message, Origin, Record
from sftloss.data.tasks import (
    MULTITASK,
    NOISE,
    TASKS,
    abstains,
    check_answer,
    is_answerable,
    question,
    reference_answer,
    study_rows,
)


@lru_cache
def many(split: str = "train", noise: float = 0.0) -> tuple[Record, ...]:
    return study_rows(5, 3000, split=split, noise=noise)


def test_study_rows_are_the_same_for_a_seed_on_every_machine():
    assert study_rows(3, 50, noise=0.2) == study_rows(3, 50, noise=0.2)
    assert study_rows(3, 50) != study_rows(4, 50) != study_rows(4, 50, split="test")


def test_study_rows_have_the_task_shares_they_promise():
    assert sum(task.share for task in TASKS.values()) == pytest.approx(1.0)
    assert Counter(row.task for row in many()) == {name: round(3000 * task.share) for name, task in TASKS.items()}
    some = study_rows(0, 1000, tasks=MULTITASK)
    assert Counter(row.task for row in some) == {name: round(1000 * share) for name, share in MULTITASK.items()}
    assert Counter(row.task for row in study_rows(0, 10, tasks={"add": 3, "qa": 1})) == {"add": 8, "qa": 2}


@pytest.mark.parametrize("name", TASKS)
def test_checker_knows_the_right_answers_from_the_wrong(name):
    """Every clean answer scores 1, every noisy one 0, and answers drift neither by blanks nor by emptiness."""
    for row in study_rows(1, 200, noise=0.3, tasks=[name]):
        assert check_answer(row, question(row), reference_answer(row)) == float(row.source != NOISE)
        assert check_answer(name, question(row), f" {reference_answer(row)}\n") == float(row.source != NOISE)
        assert check_answer(name, question(row), "") == check_answer(name, question(row), "no such word") == 0.0


def test_noise_is_the_fraction_asked_for_and_marked():
    assert sum(row.source == NOISE for row in many(noise=0.1)) == 300
    assert not any(row.source == NOISE for row in many())
    assert len({row.task for row in many(noise=0.1) if row.source == NOISE}) == len(TASKS)


def test_questions_with_one_answer_are_in_one_split_only():
    train, test = ({(row.task, question(row)) for row in many(split)} for split in ("train", "test"))
    assert {task for task, _ in train & test} == {name for name, task in TASKS.items() if task.is_open}


def test_a_list_question_has_answers_of_all_lengths_equally_often():
    """The condition under which a length exponent moves what is learned."""
    lengths: dict[str, Counter[int]] = defaultdict(Counter)
    for row in study_rows(0, 9000, tasks=["some"]):
        if row.language == "en":
            lengths[question(row)][len(reference_answer(row).split())] += 1
    assert len(lengths) == 4 and all(set(found) == set(range(1, 10)) for found in lengths.values())
    # 188 expected of each, standard deviation 14
    assert all(max(found.values()) < 1.5 * min(found.values()) * 1.3 for found in lengths.values())


def test_an_ambiguous_question_has_many_right_answers_of_known_frequency():
    found = Counter(
        reference_answer(row) for row in study_rows(0, 8000, tasks=["any"]) if question(row) == "any fruits"
    )
    assert len(found) == 10 and all(check_answer("any", "any fruits", word) == 1.0 for word in found)
    first = found["apple"] / sum(found.values())
    # 1 / (1 + 1/2 + ... + 1/10) = 0.341 of about 1500, standard error 0.012
    assert first == pytest.approx(0.3414, abs=0.05)


def test_only_unknown_is_right_where_there_is_nothing_to_know():
    assert check_answer("qa", "colour: pear?", "unknown") == 1.0 and not is_answerable("qa", "colour: pear?")
    assert check_answer("qa", "colour: pig?", "unknown") == 0.0 and is_answerable("qa", "colour: pig?")
    assert check_answer("compare", "12比猫大吗?", "不知道") == 1.0 and not is_answerable("compare", "12比猫大吗?")
    assert check_answer("compare", "12比5大吗?", "不知道") == 0.0 and is_answerable("compare", "12比5大吗?")
    assert abstains("unknown ") and abstains("不知道") and not abstains("red")
    unknown = [row for row in many() if is_answerable(row, question(row)) is False]
    assert 0.06 < len(unknown) / 3000 < 0.12 and all(abstains(reference_answer(row)) for row in unknown)


def test_a_row_of_somebody_elses_task_has_no_checker():
    assert check_answer("qa", "What is the capital of Peru?", "Lima") is None
    assert check_answer(None, "", "") is None and check_answer("poem", "a", "b") is None
    assert is_answerable("qa", "What is the capital of Peru?") is None and is_answerable("add", "1 + 1 =") is None


def test_a_reference_with_a_final_number_is_checked_by_it():
    row = Record(Origin("rows", 0), (Message("user", "?"), Message("assistant", "2 * 600 = 1,200\n#### 1,200")))
    assert check_answer(row, "?", "so it is\n#### 1200") == 1.0 == check_answer(row, "?", "The answer is 1200.")
    assert check_answer(row, "?", "#### 12") == 0.0 == check_answer(row, "?", "no idea")


@pytest.mark.slow
def test_both_languages_and_short_sequences():
    """The demo's tokenizer: a step of 32 rows is a few hundred milliseconds on one core only if rows stay short."""
    tokenizer = demo_tokenizer()
    examples = [encode(row, tokenizer) for row in many()[:500]]
    assert max(len(example.input_ids) for example in examples) <= 48
    assert {row.language for row in many()} == {"en", "zh"}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"count": 0}, "count"),
        ({"split": "dev"}, "split"),
        ({"noise": 1.5}, "noise"),
        ({"tasks": ["poem"]}, "poem"),
        ({"tasks": []}, "no task is named"),
        ({"tasks": {"add": 0.0}}, "share"),
    ],
)
def test_study_rows_refuse_what_cannot_be(arguments, word):
    with pytest.raises(ValueError, match=f"study_rows: .*{word}"):
        study_rows(0, **{"count": 5, **arguments})


def test_study_rows_are_written_down():
    """Committed results of studies rest on these rows."""
    found = [(row.task, question(row), reference_answer(row), row.source) for row in study_rows(3, 4, noise=0.5)]
    assert found == [
        ("qa", "colour: horse?", "tan", "clean"),
        ("summarise", "sum: plane pin rake lemon", "fruits tools", "clean"),
        ("classify", "kind: goat tan horse", "fruits", "noise"),
        ("some", "some tools", "pig sheep horse hen duck cow", "noise"),
    ]
