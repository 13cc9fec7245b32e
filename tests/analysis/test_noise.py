"""A task with random answers is named with its share of the signal; a hard task that can be learned is not."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from tests.analysis.tables import make_table

from sftloss.analysis.signal.frames import open_study
from sftloss.analysis.signal.rules.noise import SIG004
from sftloss.analysis.signal.views import AnalysisOptions

ROWS, WORDS, DIGIT, YES = 150, 60, 100, 200
"""Tokens below WORDS are words; DIGIT + d is the digit d; YES and YES + 1 are labels."""


def words(random, low=3, high=10):
    return random.integers(0, WORDS, random.integers(low, high))


def digits(random, count):
    return DIGIT + random.integers(0, 10, count)


def number_tokens(value):
    return DIGIT + np.array([int(digit) for digit in str(value)])


def a_sum(random, of):
    left, right = (int(random.integers(0, 1000)) for _ in range(2))
    return np.concatenate([number_tokens(left), [DIGIT + 10], number_tokens(right)]), number_tokens(of(left, right))


def copied(random, change):
    prompt = words(random)
    return prompt, change(prompt)


def random_words_after_a_phrase(random):
    return words(random), np.concatenate([[300, 301, 302], random.integers(0, WORDS, 8)])


def one_word_looked_up(random):
    word = random.integers(0, WORDS)
    return np.array([301, word]), np.array([(7 * word + 3) % WORDS, (11 * word + 5) % WORDS])


NOISE = {
    "random words": lambda random: (words(random), random.integers(0, WORDS, 30)),
    "random words of random number": lambda random: (words(random), words(random, 1, 40)),
    "random digits": lambda random: (words(random), digits(random, 12)),
    "random digits for a sum": lambda random: (a_sum(random, int.__add__)[0], digits(random, 4)),
    "random labels": lambda random: (words(random), YES + random.integers(0, 2, 1)),
    "random words after a fixed phrase": random_words_after_a_phrase,
    "one prompt, random digits": lambda random: (np.array([300, 301]), digits(random, 10)),
    "frequent and rare random words": lambda random: (words(random), random.geometric(0.1, 20) % WORDS),
}
LEARNABLE = {
    "copy": partial(copied, change=lambda prompt: prompt),
    "reverse": partial(copied, change=lambda prompt: prompt[::-1]),
    "sort": partial(copied, change=np.sort),
    "cipher": partial(copied, change=lambda prompt: (7 * prompt + 3) % WORDS),
    "add": partial(a_sum, of=int.__add__),
    "multiply": partial(a_sum, of=int.__mul__),
    "look up": one_word_looked_up,
    "count": partial(copied, change=lambda prompt: number_tokens(len(prompt))),
}


def finding(task, *, p=1 / 400, seed=0, rows=ROWS, template=(400, 401)):
    """The finding in a file in which a second task is known; the model predicts answers of `task` with `p`."""
    random, examples = np.random.default_rng(seed), []
    for at in range(2 * rows):
        is_task = at % 2 == 0
        prompt, answer = task(random) if is_task else (words(random), words(random, 3, 5))
        prompt = np.concatenate([template, prompt, template])
        n, end = len(prompt), [410]
        examples.append(
            {
                "p": np.concatenate([np.full(n, 0.3), np.full(len(answer), p if is_task else 0.95), [0.95]]),
                "token": np.concatenate([prompt, answer, end]),
                "weight": np.concatenate([np.zeros(n), np.ones(len(answer) + 1)]),
                "role": np.concatenate([np.zeros(n), np.ones(len(answer) + 1)]),
                "task": "suspect" if is_task else "known",
            }
        )
    return SIG004.finding(open_study(make_table(examples), AnalysisOptions(replicates=20)))


@pytest.mark.parametrize("task", NOISE.values(), ids=NOISE)
def test_a_task_with_random_answers_is_named_with_its_share_and_a_cure(task):
    found = finding(task, p=1 / 400)
    assert found is not None and found.sentence.startswith("The task 'suspect' gets ")
    assert 1 / 3 < found.value <= 1 and "leave them out" in found.fix and found.rows[0] == "data.jsonl:1"


@pytest.mark.parametrize("task", LEARNABLE.values(), ids=LEARNABLE)
def test_a_task_that_can_be_learned_is_not_named_although_the_model_predicts_nothing_of_it(task):
    assert finding(task, p=1 / 400) is None


def test_the_sentence_has_the_three_measurements():
    sentence = finding(NOISE["random digits"], p=0.1).sentence
    assert "loss on them is 2.30 nats a token; that of guessing each token by its frequency in these" in sentence
    assert "in 150 rows (permutation test, p = " in sentence


def test_answers_that_the_model_predicts_better_than_frequencies_are_not_random():
    assert finding(NOISE["random digits"], p=0.3) is None


def test_few_rows_cannot_show_that_answers_are_random():
    assert finding(NOISE["random digits"], rows=60) is None
