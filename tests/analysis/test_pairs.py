"""Two runs on the same rows: paired differences are those of the rows, and their intervals hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from tests.analysis.tables import make_table

from sftloss.analysis import paired_section
from sftloss.document import Column, Document, Section, Table
from sftloss.pipeline import side_by_side

LABELS = ("base", "tuned")


def rows(chances, **more):
    return [{"p": p, "task": "ab"[i % 2], "digest": 50 + i, **more} for i, p in enumerate(chances)]


def chances(seed=0, count=120):
    rng = np.random.default_rng(seed)
    return [rng.uniform(0.2, 0.8, rng.integers(2, 20)) for _ in range(count)]


def records(table):
    return {row[0]: dict(zip([c.key for c in table.columns], row, strict=True)) for row in table.rows}


def test_a_shift_of_every_token_is_the_difference_with_hardly_a_width():
    """Every loss is lower by log 1.1: rows differ, their differences do not."""
    before = chances()
    section = paired_section(make_table(rows(before)), make_table(rows([p * 1.1 for p in before])), LABELS)
    whole = records(section.tables[0])["all examples"]
    assert whole["difference"] == pytest.approx(-np.log(1.1), abs=1e-5)  # float32 in the table
    assert whole["difference_low"] is None  # all rows agree to float32: an interval without width is left out
    assert whole["lower"] == 1.0 and whole["count"] == 120 and "lower in tuned than in base" in section.lead


def test_differences_are_those_of_the_rows_by_hand_and_by_group():
    before, after = chances(), chances(seed=1)
    after = [np.resize(b, len(a)) for a, b in zip(before, after, strict=True)]
    section = paired_section(make_table(rows(before)), make_table(rows(after)), LABELS)
    for group, which in (("all examples", slice(None)), ("the task 'b'", slice(1, None, 2))):
        means = [-np.concatenate([np.log(p) for p in run[which]]).mean() for run in (before, after)]
        told = records(section.tables[0])[group]
        assert (told["first"], told["second"]) == pytest.approx(tuple(means), rel=1e-5)
        assert told["difference"] == pytest.approx(means[1] - means[0], abs=1e-5)
        assert told["difference_low"] < told["difference"] < told["difference_high"]
    shares = records(section.tables[-1])
    asks = [[2 * np.sum(1 - p) for p in run] for run in (before, after)]
    parts = [sum(of[1::2]) / sum(of) for of in asks]
    assert shares["the task 'b'"]["difference"] == pytest.approx(parts[1] - parts[0], abs=1e-5)


def test_rows_are_matched_by_what_they_are_and_not_by_their_place():
    before = chances(count=60)
    first, second = rows(before), rows([p * 1.1 for p in before])[::-1][:40]
    section = paired_section(make_table(first), make_table(second), LABELS)
    whole = records(section.tables[0])["all examples"]
    assert whole["count"] == 40 and whole["lower"] == 1.0
    assert "40 rows are the same, of 60 in base and 40 in tuned." in section.notes


def test_runs_without_a_row_in_common_are_not_paired():
    first, second = rows(chances(count=40)), rows(chances(count=40))
    for row in second:
        row["digest"] += 1000
    assert paired_section(make_table(first), make_table(second), LABELS) is None


@pytest.mark.slow
def test_paired_intervals_hold_the_true_difference():
    """95 % intervals of 300 draws: 95 % of them hold the truth, give or take three standard errors (3.8 %)."""
    rng, holds = np.random.default_rng(0), 0
    for _ in range(300):
        shifts = rng.normal(0.1, 0.2, 120)
        before = [np.full(8, p) for p in rng.uniform(0.1, 0.5, 120)]
        after = [p * np.exp(-shift) for p, shift in zip(before, shifts, strict=True)]
        section = paired_section(make_table(rows(before)), make_table(rows([p.clip(0, 0.99) for p in after])), LABELS)
        whole = records(section.tables[0])["all examples"]
        holds += whole["difference_low"] <= 0.1 <= whole["difference_high"]
    assert holds / 300 > 0.95 - 0.038


def report(share, low, high):
    columns = tuple(Column(key, key, "percent") for key in ("share", "share_low", "share_high"))
    table = Table("task", "Tasks", (Column("group", "group"), *columns), (("a", share, low, high),))
    return Document("R", (), (), (Section("task", "Tasks", "", tables=(table,)),))


def test_reports_without_tables_of_rows_differ_with_intervals_of_independent_runs():
    section = side_by_side([report(0.2, 0.17, 0.23), report(0.5, 0.46, 0.54)], LABELS, [None, None]).sections[0]
    (row,) = section.tables[0].rows
    assert row[1:4] == (0.2, 0.5, pytest.approx(0.3))
    assert row[4:] == pytest.approx((0.25, 0.35))  # 0.3 -+ hypot(0.03, 0.04)
    assert "independent" in section.notes[0]


def test_equal_runs_are_the_same_and_not_higher_by_nothing():
    section = paired_section(make_table(rows(chances(count=40))), make_table(rows(chances(count=40))), LABELS)
    assert "is the same in tuned as in base." in section.lead and "higher" not in section.lead


def test_equal_reports_have_no_difference():
    one = report(0.2, 0.17, 0.23)
    (section,) = side_by_side([one, one], LABELS, [None, None]).sections
    assert section.lead == "No table differs." and not section.tables


def test_a_folder_whose_table_cannot_be_read_is_compared_by_its_report(tmp_path):
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "manifest.json").write_text('{"objectives": [], "model": {"own_logits_because": ""}}')
    reports = [report(0.2, 0.17, 0.23), report(0.5, 0.46, 0.54)]
    (section,) = side_by_side(reports, LABELS, [tmp_path, tmp_path]).sections
    assert section.id == "tables-1"
