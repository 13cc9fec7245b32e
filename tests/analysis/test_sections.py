"""The document: every picture has something in it, every number is right, and order does not matter."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import numpy as np
import pytest
from tests.analysis.tables import MemoryTable, make_table, random_examples

from sftloss.analysis.signal.describe import describe_signal
from sftloss.analysis.signal.frames import open_study
from sftloss.analysis.signal.sections.answer import answer_section
from sftloss.analysis.signal.sections.groups import SHOWN_GROUPS, group_shares
from sftloss.analysis.signal.sections.length import appendix_section, length_section, tilt_section
from sftloss.analysis.signal.sections.tokens import BAND_NAMES, confidence_section, positions_section, roles_section
from sftloss.analysis.signal.views import AnalysisOptions
from sftloss.errors import DataError
from sftloss.report import render_markdown
from sftloss.weights import EXAMPLE_MEAN, TOKEN_MEAN
from sftloss.words import number, percent

OBJECTIVES = ("cross_entropy", "focal(gamma=2)")
OPTIONS = AnalysisOptions(replicates=100, policy="per-token", micro_batch=4)


@pytest.fixture(scope="module")
def table():
    return make_table(random_examples(), objectives=OBJECTIVES)


@pytest.fixture(scope="module")
def document(table):
    return describe_signal(table, OPTIONS, decode=lambda ids: [f"<{i}>" for i in ids], facts=[("model", "none")])


def column(table, key):
    index = [c.key for c in table.columns].index(key)
    return [row[index] for row in table.rows]


def by_id(items, id):
    return next(item for item in items if item.id == id)


def test_sections_come_in_the_order_of_the_report(document):
    ids = [section.id for section in document.sections]
    assert ids == ["answer", "length", "tilt", "roles", "positions", "task", "language", "confidence", "comparison",
                   "influential", "advice", "tokens", "appendix", "method"]  # fmt: skip


def test_every_chart_has_points_a_description_and_matching_lengths(document):
    charts = [chart for section in document.sections for chart in section.charts]
    assert len(charts) >= 10
    for chart in charts:
        assert chart.description and chart.series
        for series in chart.series:
            assert len(series.x) == len(series.y) > 0 and any(y is not None for y in series.y)
            for ends in (series.low, series.high):
                assert ends is None or len(ends) == len(series.y)
        points = [point for s in chart.series if s.low for point in zip(s.low, s.y, s.high, strict=True)]
        assert all(low <= y <= high for low, y, high in points if None not in (low, y, high))


def test_every_table_is_rectangular_and_has_no_nan(document):
    tables = [table for section in document.sections for table in section.tables]
    assert len({table.id for table in tables}) == len(tables) >= 10
    for table in tables:
        assert table.rows and all(len(row) == len(table.columns) for row in table.rows)
        assert len({c.key for c in table.columns}) == len(table.columns)
        cells = [value for row in table.rows for value in row if isinstance(value, float)]
        assert np.isfinite(cells).all()


def test_shares_sum_to_one(document):
    for section, id in (
        ("length", "length-deciles"),
        ("roles", "roles"),
        ("confidence", "confidence"),
        ("task", "task"),
    ):
        table = by_id(by_id(document.sections, section).tables, id)
        for name in ("tokens", "token_mean", "example_mean"):
            assert sum(column(table, name)) == pytest.approx(1.0, rel=1e-9)


def test_signal_sections_name_their_level(document):
    for section in document.sections:
        if section.id in ("length", "roles", "positions", "task", "confidence", "comparison", "influential"):
            assert section.level.startswith("S1")


def test_headlines_say_three_things_with_numbers(document):
    group, length, known = document.headlines
    assert re.fullmatch(
        r"The task 'yes/no' has 4\.\d % of the tokens but only 1\.\d % of the training signal "
        r"\(\d+ % if every example is averaged first\)\.",
        group,
    )
    assert re.search(
        r"^Averaging every example first can make answers shorter: the predicted mean is \d\S* tokens within prompts, "
        r"\d\S* at the bound; the data's mean is 2\d", length,
    )  # fmt: skip
    assert "% of the tokens" in known and "% of the training signal" in known


def test_the_answer_is_at_most_six_ways_to_train_with_numbers_of_their_own_sections(document):
    answer, table = document.sections[0], document.sections[0].tables[0]
    assert document.answer is answer and answer not in document.details
    assert [row[0] for row in table.rows] == [
        "cross_entropy, token mean (now)", "focal(gamma=2), token mean", "cross_entropy, example mean",
        "cross_entropy, sqrt", "cross_entropy, token mean of 4"]  # fmt: skip
    assert [column.key for column in table.columns] == ["way", "more", "less", "cost", "next"]
    titles = {section.title for section in document.sections}
    assert all(set(filter(None, row[4].split(", "))) <= titles for row in table.rows)
    mean = {row[0]: row for row in table.rows}["cross_entropy, example mean"]
    sizes = np.array([np.sum(example["weight"]) for example in random_examples()])
    asks = np.array([np.sum((1 - example["p"]) * example["weight"]) for example in random_examples()])
    shorter = np.argsort(sizes, kind="stable")[: len(sizes) // 2]
    before, after = (signal[shorter].sum() / signal.sum() for signal in (asks, asks / sizes))
    assert mean[1] == f"the shorter half of the examples: {percent(after)}, not {percent(before)}"
    assert "tokens within prompts" in mean[3] and "at the bound" in mean[3] and "Output length" in mean[4]
    (chart,) = answer.charts
    assert len(chart.series) == 1 + len(table.rows) and all(0 <= y <= 1 for series in chart.series for y in series.y)


def test_the_answer_of_one_way_alone_compares_with_the_tokens():
    options = AnalysisOptions(replicates=20, normalizations=())
    document = describe_signal(make_table(random_examples(60)), options)
    assert len(document.answer.tables[0].rows) == 1 and "% of the tokens" in document.answer.lead


def test_no_page_says_that_a_normalization_teaches_a_length_or_that_short_training_moves_less(document):
    page = render_markdown(document)
    assert not re.search(r"teach|moves less|does not move", page)
    assert "Short training, a small model and unseen prompts stay nearer to the bound" in page


def test_a_number_of_order_one_that_is_nothing_is_written_as_nothing():
    """Under the example mean equal tokens give every example the same: an exponent of 1e-9 is 0.00, not dust."""
    examples = [{"p": np.full(n, 0.5)} for n in range(5, 65)]
    page = render_markdown(describe_signal(make_table(examples), OPTIONS))
    appendix = page[page.index("## Appendix") :]
    assert "| example mean | 0.00" in appendix and not re.search(r"\de-\d", appendix)


def test_headlines_without_groups_speak_of_the_shorter_half():
    bare = [{key: e[key] for key in ("p", "weight", "role")} for e in random_examples(60)]
    assert describe_signal(make_table(bare), OPTIONS).headlines[0].startswith("The shorter half")


def test_the_document_does_not_depend_on_row_order(table, document):
    shuffled = MemoryTable(
        table.tokens().collect().sample(fraction=1.0, shuffle=True, seed=1).lazy(),
        table.examples().collect().sample(fraction=1.0, shuffle=True, seed=2).lazy(),
    )
    again = describe_signal(shuffled, OPTIONS, decode=lambda ids: [f"<{i}>" for i in ids], facts=[("model", "none")])

    def rounded(value):  # float64 sums in another order
        if isinstance(value, float):
            return float(f"{value:.9g}") if abs(value) > 1e-12 else 0.0
        if isinstance(value, dict):
            return {k: rounded(v) for k, v in value.items()}
        return [rounded(v) for v in value] if isinstance(value, list | tuple) else value

    assert json.dumps(rounded(asdict(again))) == json.dumps(rounded(asdict(document)))


def test_elasticity_of_equal_tokens_is_one_less_alpha():
    examples = [{"p": np.full(n, 0.5)} for n in range(5, 65)]
    section = appendix_section(open_study(make_table(examples), OPTIONS))
    table = by_id(section.tables, "length-numbers")
    assert column(table, "elasticity")[:3] == pytest.approx([1.0, 0.0, 0.5], abs=1e-6)  # float32 in the table
    assert column(table, "kakwani")[0] == pytest.approx(0.0, abs=1e-6)
    assert "mechanical" in section.notes[0]


def test_deciles_leave_out_examples_without_trained_tokens():
    examples = [{"p": np.full(n, 0.5), "weight": float(n > 9)} for n in range(5, 65)]
    deciles = by_id(length_section(open_study(make_table(examples), OPTIONS)).tables, "length-deciles")
    assert column(deciles, "group")[0] == "10 to 15" and "untrained" not in column(deciles, "group")
    assert column(deciles, "examples")[0] == pytest.approx(6 / 55) and sum(
        column(deciles, "examples")
    ) == pytest.approx(1)
    assert column(deciles, "token_mean")[0] == pytest.approx(sum(range(10, 16)) / sum(range(10, 65)), rel=1e-6)


def test_intervals_of_a_decile_count_trained_examples_only():
    """Half of the examples are untrained: their share is in neither the bars nor their intervals."""
    examples = [{"p": np.full(5 + n % 60, 0.5), "weight": float(n % 2)} for n in range(240)]
    section = length_section(open_study(make_table(examples), OPTIONS))
    bars = by_id(section.charts, "length-decile-shares").series[0]
    assert bars.label == "examples" and sum(bars.y) == pytest.approx(1.0)
    # an interval that counted the untrained half would lie around half of its bar
    assert all(low < y < high for low, y, high in zip(bars.low, bars.y, bars.high, strict=True))


def test_correlations_with_length_leave_row_weights_out():
    examples = [{"p": [0.5] * n, "weight": w, "row_weight": w} for n, w in ((2, 5.0), (4, 1.0), (7, 3.0), (9, 0.5))]
    plain = [{"p": example["p"]} for example in examples]
    notes = [appendix_section(open_study(make_table(rows), OPTIONS)).notes[0] for rows in (examples, plain)]
    assert notes[0] == notes[1] and "length correlates 1.00 with the summed loss" in notes[0]


def test_uneven_signal_is_a_cost_of_what_is_trained_now_and_of_what_is_more_uneven():
    """One answer of 100 tokens among nine of one: the token mean counts 12 % of ten, the square root a third."""
    table = make_table([{"p": [0.5] * n} for n in [1] * 9 + [100]])

    def uneven(now):
        section = answer_section(open_study(table, AnalysisOptions(normalization=now, level="S0", replicates=50)))
        rows = section.tables[0].rows
        return {str(row[0]).removeprefix("cross_entropy, "): "uneven signal" in str(row[3]) for row in rows}

    assert uneven(EXAMPLE_MEAN) == {"example mean (now)": False, "token mean": True, "sqrt": True}
    assert uneven(TOKEN_MEAN) == {"token mean (now)": True, "sqrt": False, "example mean": False}


def test_tilt_section_predicts_the_harmonic_mean():
    examples = [{"p": np.full(n, 0.5), "prompt": 9} for n in range(2, 16)] * 3
    section = tilt_section(open_study(make_table([e | {"id": i} for i, e in enumerate(examples)]), OPTIONS))
    table = section.tables[0]
    rows = {row[0]: row for row in table.rows}
    given = [column.key for column in table.columns].index("given_prompt")
    harmonic = 14 / sum(1 / n for n in range(2, 16))
    assert rows["token mean"][1] == pytest.approx(8.5) and rows["example mean"][1] == pytest.approx(harmonic)
    assert rows["example mean"][given] == pytest.approx(harmonic)  # one prompt: all of it happens
    assert "cannot tell" not in section.lead


def test_confidence_bands_and_gradient_factors_are_those_of_the_losses():
    examples = [{"p": [0.005, 0.3, 0.3, 0.995]}] * 40
    study = open_study(make_table([e | {"id": i} for i, e in enumerate(examples)], objectives=OBJECTIVES), OPTIONS)
    section = confidence_section(study)
    bands, factors = section.tables
    assert column(bands, "group") == [BAND_NAMES[0], BAND_NAMES[3], BAND_NAMES[-1]]
    assert column(bands, "tokens") == pytest.approx([0.25, 0.5, 0.25])
    gaps = np.array([0.995, 2 * 0.7, 0.005])
    assert column(bands, "token_mean") == pytest.approx(gaps / gaps.sum(), rel=1e-5)  # float32 in the table
    assert column(factors, "f0")[3] == pytest.approx(1.0, rel=1e-5)
    assert column(factors, "f1")[3] == pytest.approx(0.7**2, rel=1e-5)
    assert column(factors, "f1")[1] is None  # no token there: undefined, not 0
    assert [series.label for series in section.charts[1].series] == list(OBJECTIVES)  # cross-entropy is there once


def test_roles_share_signal_by_weight():
    examples = [{"p": [0.5, 0.5, 0.5], "role": [0, 1, 3], "weight": [0.5, 1.0, 0.5]}] * 5
    section = roles_section(open_study(make_table([e | {"id": i} for i, e in enumerate(examples)]), OPTIONS))
    assert column(section.tables[0], "group") == ["prompt", "response", "tool"]
    assert column(section.tables[0], "token_mean") == pytest.approx([0.25, 0.5, 0.25])


def test_positions_count_from_the_first_trained_token():
    examples = [{"p": [0.9, 0.9, 0.5, 0.75], "weight": [0, 0, 1, 1]}] * 4
    section = positions_section(open_study(make_table([e | {"id": i} for i, e in enumerate(examples)]), OPTIONS))
    first, tenths, ends = section.tables
    assert column(first, "group") == ["1", "2"]
    assert column(first, "token_mean") == pytest.approx([0.5 / 0.75, 0.25 / 0.75], rel=1e-5)
    assert column(tenths, "group") == ["0 to 10 %", "50 to 60 %"]
    assert column(ends, "p") == pytest.approx([0.5, 0.75], rel=1e-5) and column(ends, "count") == [4, 4]
    assert any("No answer shows an end token" in note for note in section.notes)


def test_strips_show_texts_weights_and_at_most_so_many_tokens(document, table):
    strips = by_id(document.sections, "tokens").strips
    assert 0 < len(strips) <= 20
    for strip in strips:
        assert strip.tokens[0].startswith("<") and set(strip.roles) <= {"prompt", "response"}
        assert all(len(values) == len(strip.tokens) for values in strip.values)
        assert max(strip.values[0]) == 1.0 and strip.values[0][0] == 0.0  # the prompt is not trained
    short = describe_signal(table, AnalysisOptions(replicates=20, strips=50, strip_tokens=6))
    strips = by_id(short.sections, "tokens").strips
    assert len(strips) == 20 and max(len(strip.tokens) for strip in strips) == 6
    assert strips[0].tokens[0].isdigit()  # ids where nothing decodes
    cut = [strip for strip in strips if ", tokens " in strip.title]
    assert cut and all(len(strip.tokens) == 6 for strip in cut if ", tokens 2 to 7 of " in strip.title)


def test_many_groups_are_shown_up_to_a_limit():
    examples = [{"p": [0.5] * (3 + i % 5), "task": f"t{i % 50}"} for i in range(200)]
    of = group_shares(open_study(make_table(examples), OPTIONS), "task")
    assert len(of.labels) == SHOWN_GROUPS and of.labels[-1] == "31 smaller groups"
    assert of.column("tokens").sum() == pytest.approx(1.0)


def test_most_influential_examples_are_the_largest_signals():
    examples = random_examples(60)
    examples[17]["p"] = np.full(len(examples[17]["p"]), 0.001)
    examples[17]["weight"] = np.ones(len(examples[17]["p"])) * 50
    section = by_id(describe_signal(make_table(examples), OPTIONS).sections, "influential")
    assert section.tables[0].rows[0][0] == "data.jsonl:18"
    assert column(section.tables[0], "share") == sorted(column(section.tables[0], "share"), reverse=True)
    assert section.charts[0].format_y == "percent"


def test_data_without_a_trained_token_is_one_error_and_no_shares():
    document = describe_signal(make_table([{"p": [0.5, 0.5], "weight": 0.0}] * 3), OPTIONS)
    assert document.findings[0].id == "MASK001" and document.findings[0].severity == "error"
    assert "would learn nothing" in document.headlines[0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_few_examples_are_described_without_false_precision(count):
    document = describe_signal(make_table(random_examples(count), objectives=OBJECTIVES), OPTIONS)
    assert "cannot tell" in by_id(document.sections, "length").lead
    assert "insufficient data" in next(f for f in document.findings if f.id == "NORM003").sentence


def test_level_s2_is_refused_without_hidden_norms():
    table = make_table(random_examples(5))
    bare = MemoryTable(table.tokens().drop("hidden_norm"), table.examples())
    assert describe_signal(bare, AnalysisOptions(replicates=20)).sections
    with pytest.raises(DataError, match="no hidden_norm"):
        describe_signal(bare, AnalysisOptions(level="S2"))


def test_rules_of_advice_state_premise_number_and_reason(document):
    table = by_id(document.sections, "advice").tables[0]
    assert all(row[0] and row[1] and row[2] and row[3] is not None for row in table.rows) and len(table.rows) >= 4


def test_numbers_in_words_have_three_digits():
    assert [number(v) for v in (0.0, -0.4412, 8.44, 1234.5, 7.0, float("nan"))] == [
        "0", "-0.441", "8.44", "1,234", "7", "undefined"]  # fmt: skip
    assert [percent(v) for v in (0.0, 0.0001, 0.031, 0.358, 1.0)] == [
        "0 %",
        "less than 0.1 %",
        "3.1 %",
        "36 %",
        "100 %",
    ]
