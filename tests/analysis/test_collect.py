"""From rows to lengths: each answer counts by itself, and one forecast serves every caller."""

from __future__ import annotations

import numpy as np
import pytest

from sftloss import lengths
from sftloss.analysis import LengthOptions, forecasts_by_task, lengths_of
from sftloss.data import encode, read_records
from sftloss.data.demo import demo_tokenizer
from sftloss.weights import EXAMPLE_MEAN

WORDS = [3, 5, 9, 14, 20, 27]


def two_turns(i):
    def turn(k):
        return [
            {"role": "user", "content": f"question {k}"},
            {"role": "assistant", "content": " ".join(["word"] * WORDS[(i + k) % 6])},
        ]

    return {"messages": [*turn(0), *turn(1)], "task": "even" if i % 2 == 0 else "odd"}


ROWS = [two_turns(i) for i in range(60)]


@pytest.fixture(scope="module")
def examples():
    return [encode(record, demo_tokenizer()) for record in read_records(ROWS)]


def test_an_answer_is_one_turn_and_t_is_the_whole_example(examples):
    """Two turns were once one answer of twice the length in one command, and two answers in another."""
    columns = lengths_of(examples)
    assert len(columns.ids) == 2 * len(ROWS)
    np.testing.assert_array_equal(np.bincount(columns.ids, columns.output), columns.size[::2])
    assert columns.task_names == ("even", "odd") and (columns.prompts >= 0).all()


def test_the_forecast_by_task_is_the_report_of_the_rows_of_that_task(examples):
    forecasts = forecasts_by_task(lengths_of(examples), EXAMPLE_MEAN)
    assert set(forecasts) == {"", "even", "odd"}
    for task, forecast in forecasts.items():
        rows = [row for row in ROWS if not task or row["task"] == task]
        question = LengthOptions(normalizations=(EXAMPLE_MEAN,), replicates=0)
        table = lengths(rows, demo_tokenizer(), question=question).document.sections[0].tables[0]
        (row,) = (row for row in table.rows if row[0] == "example mean")
        at = {column.key: value for column, value in zip(table.columns, row, strict=True)}
        assert forecast.whole == pytest.approx(at["bound"])
        assert forecast.whole / forecast.data - 1 == pytest.approx(at["shift"])
        assert forecast.within_prompt == pytest.approx(at["given_prompt"])


def test_sizes_of_another_weighting_change_the_weights_and_not_the_lengths(examples):
    plain, heavy = lengths_of(examples), lengths_of(examples, [100.0] * len(examples))
    np.testing.assert_array_equal(plain.output, heavy.output)
    one = forecasts_by_task(heavy, EXAMPLE_MEAN)[""]
    assert one.whole == pytest.approx(one.data)  # all examples have one T: nothing tilts
