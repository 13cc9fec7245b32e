"""What a comparison's report says, and when it says nothing."""

from __future__ import annotations

from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from tests.experiments.made import PLAN, arm_result, results, said

from sftloss.experiments.experiment import Experiment
from sftloss.experiments.metrics import Gap
from sftloss.experiments.pages.describe import describe
from sftloss.experiments.pages.words import number
from sftloss.experiments.verdicts.verdicts import Results, comparisons
from sftloss.report import Report, schema, to_json


def found(document, code):
    return [finding for finding in document.findings if finding.id == code]


def test_a_planted_difference_is_a_verdict_with_its_direction():
    document = describe(PLAN, results(0.1))
    sentences = [finding.sentence for finding in found(document, "CMP010")]
    assert any("held-out loss per token higher by 0.1" in s and "which is worse" in s for s in sentences)
    assert any("dft against cross_entropy" in line for line in document.headlines)


def test_without_a_difference_the_report_says_so_and_what_it_could_have_seen():
    document = describe(PLAN, results(0.0))
    assert not found(document, "CMP010")
    assert "no difference" in document.headlines[0]
    (told,) = found(document, "CMP020")
    assert told.sentence == "No difference from cross_entropy that this data can show in any comparison."
    for one in comparisons(results(0.0)):
        assert f"{one.measure.name} {number(one.detectable, one.measure)}" in told.why


def test_one_finding_names_what_shows_no_difference_where_others_do():
    experiment = replace(PLAN, losses=("cross_entropy", "dft", "focal(gamma=2)"))
    given = results(experiment=experiment)
    moved = {run: arm_result(run, 0.5 if run.arm.loss == "dft" else 0.0) for run in given.by_trial}
    document = describe(experiment, Results(given.arms, given.seeds, moved))
    (told,) = found(document, "CMP020")
    assert told.sentence.endswith("in 6 of 8 comparisons.") and len(found(document, "CMP010")) == 2
    per_token, per_example, right, length, *_ = told.why.split("about: ")[1].replace(". ", "; ").split("; ")
    assert "(focal(gamma=2))" in per_token and "(focal(gamma=2))" in per_example
    assert "focal" not in right and right.endswith("percentage points") and "focal" not in length


def test_two_seeds_give_no_verdict_whatever_they_show():
    experiment = replace(PLAN, seeds=(0, 1))
    document = describe(experiment, results(5.0, experiment=experiment))
    assert found(document, "CMP001") and not found(document, "CMP010")
    (told,) = found(document, "CMP021")
    assert "No verdict" in told.sentence and "held-out loss per token (dft +5.000 nats)" in told.sentence
    assert not found(document, "CMP020")


def test_three_seeds_are_told_what_a_verdict_asks_of_them():
    """Student's quantile of two degrees of freedom at 0.05 / 4: 8.9; of four, 4.3."""
    document = describe(PLAN, results(0.1))
    assert "above 9 standard errors" in found(document, "CMP004")[0].sentence and found(document, "CMP010")
    assert found(document, "CMP004")[0].fix == "Give it 5 seeds."
    experiment = replace(PLAN, seeds=(0, 1, 2, 3, 4))
    assert not found(describe(experiment, results(0.1, experiment=experiment)), "CMP004")


def test_the_level_is_shared_by_all_comparisons():
    compared = comparisons(results())
    assert len(compared) == 4
    assert {one.level for one in compared} == {1 - 0.05 / 4}
    experiment = Experiment(losses=("cross_entropy", "dft", "focal(gamma=2)"))
    assert {one.level for one in comparisons(results(experiment=experiment))} == {1 - 0.05 / 8}


def test_unequal_tokens_are_an_error():
    given = results()
    last = list(given.by_trial)[-1]
    spoiled = {**given.by_trial, last: replace(arm_result(last, 0.0), tokens=501)}
    assert found(describe(PLAN, Results(given.arms, given.seeds, spoiled)), "CMP002")[0].severity == "error"


def test_answers_are_shown_and_not_obeyed():
    given = results()
    page = Report(describe(PLAN, given, {arm: said(arm) for arm in given.arms})).to_html()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_predicted_lengths_stand_beside_generated_ones_for_cross_entropy_only():
    (table,) = [t for s in describe(PLAN, results()).sections for t in s.tables if t.id == "lengths"]
    ((name, *predicted, generated, low, high),) = table.rows
    assert name == "dft" and predicted == [None, None]
    assert generated == pytest.approx(1.0, abs=0.01) and (low, high) == (None, None)  # equal lengths: nothing varied


def test_document_keeps_the_schema_and_equal_results_give_equal_bytes():
    given = results(0.1)
    answers = {arm: said(arm) for arm in given.arms}
    document = describe(PLAN, given, answers)
    text = to_json(document)
    jsonschema.validate(__import__("json").loads(text), schema())
    assert text == to_json(describe(PLAN, results(0.1), answers))
    assert Report(document).to_html() == Report(describe(PLAN, results(0.1), answers)).to_html()


def test_every_section_is_there():
    given = results()
    document = describe(PLAN, given, {arm: said(arm) for arm in given.arms})
    ids = [section.id for section in document.sections]
    assert ids == [
        "comparison-verdicts", "metrics", "curves", "lengths", "groups", "calibration", "outputs", "method",
    ]  # fmt: skip


def test_a_calibration_error_has_a_paired_difference_with_an_interval():
    """It is no mean over examples: its interval is by resampling, and stands among the further differences."""
    given = results()
    second, first = given.arms[1], given.arms[0]
    for run in (run for run in given.by_trial if run.arm == second):
        kept = given.by_trial[run].metrics
        given.by_trial[run].metrics["ece"] = Gap(kept["ece"].gap + 1.0, kept["ece"].size)
    difference = given.difference(second, "ece")
    mine, theirs = ([r.metrics["ece"].value() for r in given.of(arm)] for arm in (second, first))
    assert difference.value == pytest.approx(np.mean(mine) - np.mean(theirs)) and difference.interval().low > 0
    (table,) = [t for s in describe(PLAN, given).sections for t in s.tables if t.id == "metrics-differences"]
    bounds = difference.interval()
    points = [100 * value for value in (difference.value, min(bounds.low, 1.0), min(bounds.high, 1.0))]
    assert table.columns[1].label == "dft" and table.rows[0] == ("calibration error, points", *points)
