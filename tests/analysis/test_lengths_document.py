"""The page on output lengths: what it claims, what it declines to claim."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sftloss.analysis import LengthOptions, Lengths, describe_lengths
from sftloss.errors import DataError
from sftloss.report import from_json, render_html, render_markdown, to_json
from sftloss.weights import EXAMPLE_MEAN, Normalization
from sftloss.words import number


def lengths_of(sizes, prompts=None, tasks=None):
    sizes = np.asarray(sizes, dtype=float)
    return Lengths(np.arange(len(sizes)), sizes, sizes, prompts, tasks)


def told(seed=0, count=200, spread=0.8):
    """Answers whose length varies given the prompt."""
    rng = np.random.default_rng(seed)
    return lengths_of(np.ceil(rng.lognormal(4, spread, count)), np.arange(count) // 4)


def section(document, id):
    return next(one for one in document.sections if one.id == id)


def records(table):
    return [dict(zip([column.key for column in table.columns], row, strict=True)) for row in table.rows]


def findings(document):
    return {finding.id: finding for finding in document.findings}


def test_the_page_says_what_is_predicted_in_words_charts_and_tables():
    document = describe_lengths(told(), LengthOptions(batch_size=2, grad_accum=4, ranks=2))
    rows = records(section(document, "forecast").tables[0])
    assert [row["normalization"] for row in rows][2:4] == ["example mean", "token mean of 2 (micro-batch)"]
    example = rows[2]
    assert example["bound_low"] < example["bound"] < example["bound_high"] < rows[0]["bound"]
    assert example["bound"] < example["given_prompt"] < rows[0]["bound"]
    assert example["shift"] == pytest.approx(example["bound"] / rows[0]["bound"] - 1)
    assert example["effective"] < 200 == pytest.approx(rows[0]["effective"])
    means, lines = document.answer.charts[0], section(document, "distribution").charts[0]
    assert means.kind == "point" and len(means.series) == 3 and lines.kind == "line"
    for line in lines.series:
        assert sum(line.y) == pytest.approx(1)


def test_lengths_that_are_all_the_same_give_a_plain_answer_and_a_wanted_mean_comes_first():
    document = describe_lengths(lengths_of(np.full(40, 4.0)), LengthOptions(target_mean=8.0))
    assert (
        document.headlines[0].endswith("all lengths are the same.")
        and "this data cannot tell" not in section(document, "forecast").lead
    )
    assert document.answer.lead.startswith("For a mean of 8 tokens") and "To keep" not in document.answer.lead


@pytest.mark.parametrize(
    "lengths, reason",
    [
        (lengths_of(np.arange(1.0, 101.0), np.arange(100)), "no prompt has two answers of different length"),
        (lengths_of(np.arange(1.0, 101.0)), "no prompt has two answers of different length"),
        (lengths_of(np.arange(1.0, 21.0), np.arange(20) // 2), "20 examples with trained tokens, fewer than 30"),
        (lengths_of(np.tile([5.0, 50.0], 50), np.arange(100) // 2), "2 distinct lengths, fewer than 5"),
        (lengths_of(np.linspace(90, 110, 60), np.arange(60) // 2), "below 1.5"),
    ],
    ids=["no repeated prompt", "unknown prompts", "few", "two lengths", "hardly vary"],
)
def test_the_page_says_plainly_when_the_data_cannot_tell(lengths, reason):
    document = describe_lengths(lengths, LengthOptions((EXAMPLE_MEAN,), target_mean=40.0))
    assert reason in document.headlines[0] and "cannot tell" in document.headlines[0]
    for name in ("forecast", "evidence", "target"):
        assert "cannot tell" in section(document, name).lead and reason in section(document, name).lead
    assert all(finding.severity == "info" for finding in document.findings)
    assert not all(row["enough"] for row in records(section(document, "evidence").tables[0]))


def test_where_the_data_can_tell_every_condition_is_met():
    document = describe_lengths(told())
    assert all(row["enough"] for row in records(section(document, "evidence").tables[0]))
    assert "cannot tell" not in " ".join((*document.headlines, *(one.lead for one in document.sections)))


def test_without_repeated_prompts_no_number_is_shown_given_the_prompt():
    """It would be the data's mean whatever the truth is."""
    document = describe_lengths(lengths_of(np.arange(1.0, 101.0), np.arange(100)))
    assert "given_prompt" not in records(section(document, "forecast").tables[0])[0]
    assert [series.label for series in document.answer.charts[0].series] == [
        "the data's mean",
        "at the bound",
    ]


def test_the_example_mean_is_a_warning_only_where_it_is_used_and_shown():
    assert findings(describe_lengths(told()))["NORM002"].severity == "info"
    used = findings(describe_lengths(told(), LengthOptions((Normalization("T^-1", 1.0),))))["NORM002"]
    assert used.severity == "warning" and used.unit == "tokens at the bound"
    assert used.interval.low < used.value < used.interval.high and "within prompts" in used.sentence
    # prompts that all but determine the length: the bound is large, what the data shows is not
    rng = np.random.default_rng(0)
    sizes = np.repeat(np.ceil(rng.lognormal(5, 1, 60)), 2) + np.tile([0.0, 1.0], 60)
    fixed = describe_lengths(lengths_of(sizes, np.arange(120) // 2), LengthOptions((EXAMPLE_MEAN,)))
    assert findings(fixed)["NORM002"].severity == "info"


def test_micro_batches_are_found_by_the_smallest_and_only_where_known():
    assert "NORM001" not in findings(describe_lengths(told()))
    found = findings(describe_lengths(told(), LengthOptions(batch_size=2, grad_accum=16)))["NORM001"]
    assert "micro-batch of 2 sequences drawn at random" in found.sentence and found.severity == "info"


def test_prompts_with_several_lengths_are_counted_and_listed():
    lengths = lengths_of([*np.arange(1.0, 61.0), 7.0, 9.0], np.array([*range(60), 0, 1]))
    document = describe_lengths(lengths, origins=lambda ids: tuple(f"d:{i}" for i in ids))
    found = findings(document)["DATA103"]
    assert found.value == pytest.approx(4 / 62) and found.rows == ("d:0", "d:1", "d:60", "d:61")


def test_a_few_giant_answers_are_a_finding_under_the_sum_and_not_under_the_example_mean():
    sizes = np.append(np.arange(1.0, 200.0), [1e6, 2e6])
    found = findings(describe_lengths(lengths_of(sizes), origins=lambda ids: tuple(map(str, ids))))["NORM004"]
    assert found.rows[:2] == ("200", "199") and found.severity == "warning"
    assert "NORM004" not in findings(describe_lengths(lengths_of(sizes), LengthOptions((EXAMPLE_MEAN,))))


def test_a_wanted_mean_is_solved_with_and_without_the_prompt():
    lengths = told()
    mean = float(lengths.output.mean())
    target = section(describe_lengths(lengths, LengthOptions(target_mean=0.9 * mean)), "target")
    alone, given = records(target.tables[0])
    assert 0 < alone["alpha"] < given["alpha"]  # less varies inside prompts, so it takes more
    assert alone["verdict"] == f"--normalization {alone['alpha']:.2f}"
    assert alone["shortest"] <= given["shortest"] < mean < given["longest"] <= alone["longest"]


def test_a_mean_that_no_exponent_reaches_is_said_to_be():
    target = section(describe_lengths(told(), LengthOptions(target_mean=1e7)), "target")
    assert all(row["alpha"] is None and "no exponent" in row["verdict"] for row in records(target.tables[0]))
    assert "no exponent reaches it" in target.lead


def test_the_page_speaks_of_the_optimum_of_cross_entropy_and_of_the_unit():
    document = describe_lengths(told(), LengthOptions(unit="words"))
    notes = " ".join(section(document, "method").notes)
    assert "optimum of cross-entropy" in notes and "Lengths count words" in notes
    assert "Lengths count" not in " ".join(section(describe_lengths(told()), "method").notes)


def test_data_without_trained_text_is_refused():
    with pytest.raises(DataError, match="no answer of 3 examples has a length: none has a trained token"):
        describe_lengths(lengths_of([0.0, 0.0, 0.0]))


def test_the_page_is_the_same_for_any_order_of_rows():
    lengths, order = told(count=120), np.random.default_rng(5).permutation(120)
    mixed = Lengths(order, lengths.size[order], lengths.output[order], lengths.prompts[order])
    one, two = describe_lengths(lengths), describe_lengths(mixed)
    assert one.headlines == two.headlines
    assert [(f.id, f.sentence) for f in one.findings] == [(f.id, f.sentence) for f in two.findings]
    for a, b in zip(one.sections, two.sections, strict=True):
        assert a.lead == b.lead
        for x, y in zip(a.tables, b.tables, strict=True):
            for p, q in zip(x.rows, y.rows, strict=True):
                # sums in another order differ in their last bits
                assert p == tuple(pytest.approx(v, rel=1e-12, abs=1e-12) if isinstance(v, float) else v for v in q)


@pytest.mark.parametrize("sizes", [[3.0], [4.0] * 50, [1.0, 1e6], np.full(3, 0.25)], ids=str)
def test_degenerate_lengths_give_a_page_without_nan(sizes):
    document = describe_lengths(lengths_of(sizes), LengthOptions(batch_size=3, target_mean=2.0))
    assert from_json(to_json(document)) == document
    assert render_html(document) and render_markdown(document)
    for one in document.sections:
        for table in one.tables:
            assert all(not (isinstance(c, float) and math.isnan(c)) for row in table.rows for c in row)


@pytest.mark.parametrize("lengths", [told(), lengths_of(np.arange(1.0, 101.0), np.arange(100))], ids=["told", "open"])
def test_a_predicted_length_is_a_range_and_never_what_a_normalization_teaches(lengths):
    document = describe_lengths(lengths, LengthOptions((EXAMPLE_MEAN,), batch_size=2))
    rows = {row["normalization"]: row for row in records(section(document, "forecast").tables[0])}
    for name, found in (("example mean", "NORM002"), ("token mean of 2 (whole step)", "NORM001")):
        bound = number(rows[name]["bound"])
        given = number(rows[name].get("given_prompt", rows["token mean"]["bound"]))
        said = f"{given} tokens within prompts, {bound} at the bound"
        assert said in findings(document)[found].sentence
        assert said.replace(" tokens", "") in section(document, "forecast").lead
    assert f"{number(rows['example mean']['bound'])} at the bound" in document.answer.lead
    answer = {row["normalization"]: row for row in records(document.answer.tables[0])}
    assert len(answer) <= 6 and answer["example mean"]["bound"] == rows["example mean"]["bound"]
    assert answer["example mean"]["how"] == "--normalization example-mean"
    page = render_markdown(document)
    assert "teach" not in page and "does not move" not in page and "moves less" not in page
    for cause in ("Short training", "small model", "unseen prompts", "Greedy decoding"):
        assert cause in findings(document)["NORM002"].why and cause in section(document, "forecast").notes[0]
