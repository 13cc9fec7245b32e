"""Answers: their segments, their prompts, cut ends; and one number is the same in `lengths` and in `analyze`."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from tests.analysis.tables import make_table

from sftloss.analysis import AnalysisOptions, describe_signal
from sftloss.analysis.lengths.rules import DATA103
from sftloss.analysis.signal.frames import open_study
from sftloss.analysis.signal.sections.length import tilt_section
from sftloss.analysis.table.segments import answers, with_spans
from sftloss.data.demo import demo_model, demo_tokenizer
from sftloss.pipeline import Run, analyze, lengths
from sftloss.weights import EXAMPLE_MEAN

TALK = {  # prompt, answer of two and its end, prompt, answer of one and its end
    "p": [0.5] * 8,
    "role": [0, 1, 1, 1, 0, 0, 1, 1],
    "weight": [0, 1, 1, 1, 0, 0, 1, 1],
    "is_end": [False, False, False, True, False, False, False, True],
}


def talk(**changes):
    return TALK | {"prompts": [11, 12]} | changes


def study_of(*examples):
    return open_study(make_table([e | {"id": i} for i, e in enumerate(examples)]), AnalysisOptions(replicates=50))


def test_a_conversation_is_as_many_answers_as_it_has_turns():
    study = study_of(talk(), talk(prompts=[11, 13]))
    assert study.lengths.answers.output.tolist() == [3, 2, 3, 2] and study.lengths.answers.size.tolist() == [5] * 4
    assert study.lengths.answers.prompts.tolist() == [0, 1, 0, 2]
    assert not study.lengths.answers.seen.any() and study.lengths.data.value == 2.5


def test_an_answer_whose_weights_are_zero_is_no_answer():
    study = study_of(talk(weight=[0, 0, 0, 0, 0, 0, 1, 1]))
    assert study.lengths.answers.output.tolist() == [2] and study.lengths.answers.prompts.tolist() == [0]


def test_a_cut_answer_is_in_no_length_and_is_counted():
    cut = talk(truncated=9, is_end=[False] * 3 + [True] + [False] * 4)
    study = study_of(*[talk(prompts=[i, 50 + i]) for i in range(1, 40)], cut)
    assert study.lengths.answers.cut == 1 and 2 not in study.lengths.answers.output[-1:].tolist()
    assert study.lengths.answers.sizes.tolist() == [5] * 40  # what training divides by is what it keeps
    assert any("1 answer is cut off" in note for note in tilt_section(study).notes)
    ended = study_of(*[talk(prompts=[i, 50 + i]) for i in range(1, 40)], talk(truncated=9))
    assert ended.lengths.answers.cut == 0  # cut behind the end of an answer: its length is known


def test_where_every_answer_is_cut_off_no_length_is_predicted():
    one = {"role": [0, 1, 1, 1], "weight": [0, 1, 1, 1], "is_end": [False] * 4, "truncated": 9}
    cut = [one | {"p": [0.5] * 4, "prompts": [i], "id": i} for i in range(40)]
    document = describe_signal(make_table(cut), AnalysisOptions(replicates=50, micro_batch=2))
    sections = {section.id: section for section in document.sections}
    assert document.headlines[1] == sections["tilt"].lead and "all of them are cut off" in document.headlines[1]
    assert not sections["tilt"].tables and "MASK007" in {finding.id for finding in document.findings}
    assert "undefined" not in str(sections["advice"].tables)


def test_a_cut_answer_makes_no_conflict():
    long, short = {"p": [0.5] * 9, "prompt": 5}, {"p": [0.5] * 4, "prompt": 5}
    assert DATA103.finding(study_of(long, short).lengths) is not None
    assert DATA103.finding(study_of(long, short | {"truncated": 5, "is_end": [False] * 4}).lengths) is None


def test_text_has_no_prompt_that_could_repeat():
    study = study_of(*({"p": [0.5] * (3 + i % 30), "prompts": [0]} for i in range(60)))
    assert study.lengths.answers.cannot_tell == "these rows are plain text, which has no prompt"
    assert DATA103.finding(study.lengths) is None


def test_positions_count_inside_each_answer():
    chunk = make_table([talk()]).tokens().collect().with_columns(u=pl.col("weight").cast(pl.Float64))
    spans = with_spans(chunk).filter(pl.col("u") > 0).select("position", "first", "last").rows()
    assert spans == [(2, 2, 4), (3, 2, 4), (4, 2, 4), (7, 7, 8), (8, 7, 8)]
    assert answers(chunk.head(0)).height == 0 and with_spans(chunk.head(0)).height == 0


def test_examples_of_one_prompt_are_resampled_together():
    """Four copies of each example are no more evidence than one."""
    rng = np.random.default_rng(0)
    alone = [{"p": rng.uniform(0.2, 0.9, rng.integers(5, 60)), "prompt": 1 + i} for i in range(60)]
    widths = []
    for examples in (alone, alone * 4):
        spread = study_of(*examples).lengths.forecast(EXAMPLE_MEAN).unconditional.interval
        widths.append(spread.high - spread.low)
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


@pytest.mark.parametrize("max_length", [None, 24])
def test_one_number_is_the_same_in_lengths_and_in_analyze(max_length):
    """Prompts that repeat, two turns, several tasks, some answers cut off: values and intervals agree exactly."""
    rng, rows = np.random.default_rng(0), []
    for i in range(120):
        turns = []
        for turn in range(1 + i % 2):
            words = " ".join(["apple"] * int(rng.integers(1, 12)))
            turns += [{"role": "user", "content": f"list {i // 2} {turn}"}, {"role": "assistant", "content": words}]
        rows.append({"messages": turns, "task": "ab"[i % 2]})
    run, tokenizer = Run(max_length=max_length), demo_tokenizer()
    one = lengths(rows, tokenizer, run=run).document
    two = analyze(demo_model(), tokenizer, rows, run=run).document

    def rows_of(document, id):
        table = next(t for section in document.sections for t in section.tables if t.id == id)
        keys = [column.key for column in table.columns]
        return {row[0]: dict(zip(keys, row, strict=True)) for row in table.rows}

    assert rows_of(one, "length-forecast") == rows_of(two, "length-forecast")
    conflicts = [{f.id: (f.value, f.interval) for f in d.findings}["DATA103"] for d in (one, two)]
    assert conflicts[0] == conflicts[1]
