"""What a comparison's report says, and when it says nothing."""

from __future__ import annotations

from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from tests.experiments.made import PLAN, ROWS, arm_result, results, said, with_recipe

from sftloss.document import Command
from sftloss.experiments.experiment import Experiment
from sftloss.experiments.metrics import Gap, Ratio
from sftloss.experiments.pages.describe import experiment_document
from sftloss.experiments.run.results import Point
from sftloss.experiments.verdicts.comparisons import Results, comparisons
from sftloss.experiments.verdicts.findings import COMPARE_RULES
from sftloss.report import Report, schema, to_json


def found(document, code):
    return [finding for finding in document.findings if finding.id == code]


def test_a_planted_difference_is_a_verdict_with_its_direction():
    document = experiment_document(PLAN, results(0.1))
    sentences = [finding.sentence for finding in found(document, "CMP010")]
    assert any(
        "held-out loss per token is 0.1" in s and "nats higher than with cross_entropy" in s and "which is worse" in s
        for s in sentences
    )
    assert any(line.startswith("dft: held-out loss") for line in document.headlines)


def test_without_a_difference_the_report_says_so_and_what_it_could_have_seen():
    document = experiment_document(PLAN, results(0.0))
    assert not found(document, "CMP010")
    assert "none of 4 comparisons with cross_entropy shows a difference" in document.headlines[0]
    (told,) = found(document, "CMP020")
    assert told.sentence == "No comparison with cross_entropy shows a difference."
    for one in comparisons(results(0.0)):
        assert f"{one.measure.name} {one.measure.words(one.detectable)}" in told.why


def test_one_finding_names_what_shows_no_difference_where_others_do():
    experiment = replace(PLAN, losses=("cross_entropy", "dft", "focal(gamma=2)"), seeds=(0, 1, 2, 3))
    given = results(experiment=experiment)
    moved = {run: arm_result(run, 0.5 if run.arm.loss == "dft" else 0.0) for run in given.by_trial}
    document = experiment_document(experiment, Results(given.arms, given.seeds, moved))
    (told,) = found(document, "CMP020")
    assert (
        told.sentence == "6 of 8 comparisons with cross_entropy show no difference."
        and len(found(document, "CMP010")) == 2
    )
    per_token, per_example, right, length, *_ = told.why.split("about: ")[1].replace(". ", "; ").split("; ")
    assert "(focal(gamma=2))" in per_token and "(focal(gamma=2))" in per_example
    assert "focal" not in right and right.endswith("percentage points") and "focal" not in length


def test_two_seeds_give_no_verdict_whatever_they_show():
    experiment = replace(PLAN, seeds=(0, 1))
    document = experiment_document(experiment, results(5.0, experiment=experiment))
    assert found(document, "CMP001") and not found(document, "CMP010")
    (told,) = found(document, "CMP021")
    assert "too little data" in told.sentence and "held-out loss per token (dft +5 nats)" in told.sentence
    assert not found(document, "CMP020")


def test_with_more_arms_a_verdict_needs_more_seeds():
    """Of three arms, two may work with all of three seeds and fail with all of them by chance in 6 % of reports."""
    experiment = replace(PLAN, losses=("cross_entropy", "dft", "focal(gamma=2)"))
    document = experiment_document(experiment, results(5.0, experiment=experiment))
    (few,) = found(document, "CMP001")
    assert few.sentence.endswith("With 3 arms a verdict needs 4 seeds.") and not found(document, "CMP010")


def test_a_difference_that_few_examples_decide_says_so():
    """One example of sixty has all of the difference, with each seed."""
    given = results()
    far = {
        run: replace(one, metrics={**one.metrics, "token_nll": _with_one_far(one.metrics["token_nll"])})
        if run.arm == given.arms[1]
        else one
        for run, one in given.by_trial.items()
    }
    document = experiment_document(PLAN, Results(given.arms, given.seeds, far))
    (rows,) = (t.rows for s in document.sections for t in s.tables if t.id == "comparisons")
    notes = {row[0]: row[-1] for row in rows}
    assert notes["held-out loss per token"] == "few examples decide this number"
    assert notes["right answers"] == ""


def _with_one_far(loss):
    top = loss.top.copy()
    top[3] += 500.0
    return replace(loss, top=top)


def test_three_seeds_are_told_what_a_verdict_asks_of_them():
    """Student's quantile of two degrees of freedom at 0.05 / 4: 8.9; of four, 4.3."""
    document = experiment_document(PLAN, results(0.1))
    assert "above 9 standard errors" in found(document, "CMP004")[0].sentence and found(document, "CMP010")
    assert found(document, "CMP004")[0].fix == "use 5 seeds"
    experiment = replace(PLAN, seeds=(0, 1, 2, 3, 4))
    assert not found(experiment_document(experiment, results(0.1, experiment=experiment)), "CMP004")


def test_the_level_is_shared_by_all_comparisons():
    compared = comparisons(results())
    assert len(compared) == 4
    assert {one.level for one in compared} == {1 - 0.05 / 4}
    experiment = Experiment(losses=("cross_entropy", "dft", "focal(gamma=2)"))
    assert {one.level for one in comparisons(results(experiment=experiment))} == {1 - 0.05 / 8}


def test_training_that_makes_a_pretrained_model_worse_is_a_warning_with_the_command_to_run_instead():
    """A rise of the held-out loss with every seed; from scratch, or with one seed that fell, nothing is said."""
    pretrained = with_recipe(PLAN, model="dir", learning_rate=3e-3)
    given, command = results(), Command("compare", (("--learning-rate", "0.003"), ("--seeds", "3")), inputs=())
    worse = {trial: replace(one, curve=(Point(0, 1.0), Point(10, 2.5))) for trial, one in given.by_trial.items()}
    document = experiment_document(pretrained, replace(given, by_trial=worse), command=command)
    (finding,) = found(document, "CMP005")
    assert finding.sentence == (
        "Training made the pretrained model worse in every arm: held-out loss rose from 1 to 2.50 nats per token with "
        "cross_entropy."
    )
    assert str(finding.fix) == "sftloss compare --seeds 3 --learning-rate 0.0003"
    assert not found(experiment_document(PLAN, replace(given, by_trial=worse)), "CMP005")
    last = list(worse)[-1]
    worse[last] = replace(worse[last], curve=(Point(0, 1.0), Point(10, 0.9)))
    (finding,) = found(experiment_document(pretrained, replace(given, by_trial=worse)), "CMP005")
    assert "worse in cross_entropy: " in finding.sentence and finding.fix.endswith("e.g. 0.0003")


def test_every_finding_of_a_comparison_is_a_rule():
    assert sorted(rule.id for rule in COMPARE_RULES) == [f"CMP0{n:02}" for n in (1, 2, 3, 4, 5, 6, 10, 20, 21)]
    assert all(rule.title and rule.why and (rule.cure or rule.severity == "info") for rule in COMPARE_RULES)


def test_unequal_tokens_are_an_error():
    given = results()
    last = list(given.by_trial)[-1]
    spoiled = {**given.by_trial, last: replace(arm_result(last, 0.0), tokens=501)}
    assert found(experiment_document(PLAN, Results(given.arms, given.seeds, spoiled)), "CMP002")[0].severity == "error"


def test_answers_are_shown_and_not_obeyed():
    given = results()
    page = Report(experiment_document(PLAN, given, {arm: said(arm) for arm in given.arms})).to_html()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_predicted_lengths_stand_beside_generated_ones_for_cross_entropy_only():
    (table,) = [t for s in experiment_document(PLAN, results()).sections for t in s.tables if t.id == "lengths"]
    ((name, generated, low, high),) = table.rows
    assert name == "dft" and table.title == "Length relative to the first arm"
    assert generated == pytest.approx(1.0, abs=0.01) and (low, high) == (None, None)  # equal lengths: nothing varied


def test_document_keeps_the_schema_and_equal_results_give_equal_bytes():
    given = results(0.1)
    answers = {arm: said(arm) for arm in given.arms}
    document = experiment_document(PLAN, given, answers)
    text = to_json(document)
    jsonschema.validate(__import__("json").loads(text), schema())
    assert text == to_json(experiment_document(PLAN, results(0.1), answers))
    assert Report(document).to_html() == Report(experiment_document(PLAN, results(0.1), answers)).to_html()


def test_every_section_is_there():
    given = results()
    document = experiment_document(PLAN, given, {arm: said(arm) for arm in given.arms})
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
    (table,) = [t for s in experiment_document(PLAN, given).sections for t in s.tables if t.id == "metrics-differences"]
    bounds = difference.interval()
    points = [100 * value for value in (difference.value, min(bounds.low, 1.0), min(bounds.high, 1.0))]
    assert table.columns[1].label == "dft" and table.rows[0] == ("calibration error, points", *points)


def test_answers_that_the_limit_cuts_are_a_warning_with_a_larger_limit():
    given = results()
    cut = {
        trial: replace(one, metrics=one.metrics | {"truncated": Ratio(np.full(ROWS, 0.9), np.ones(ROWS))})
        for trial, one in given.by_trial.items()
        if trial.arm.loss == "dft"
    }
    ours = Results(given.arms, given.seeds, {**given.by_trial, **cut})
    command = Command("compare", (("--data", "rows.jsonl"),))
    (warned,) = found(experiment_document(PLAN, ours, command=command), "CMP006")
    assert warned.sentence == "The limit of 64 new tokens cuts off 90 % of the answers of dft."
    assert dict(warned.fix.flags)["--max-new-tokens"] == "128" and "the models run on" in warned.why
    assert not found(experiment_document(PLAN, given), "CMP006")


def test_one_seed_judges_nothing_and_no_line_says_that_there_is_no_difference():
    experiment = replace(PLAN, seeds=(0,))
    document = experiment_document(experiment, results(0.3, experiment=experiment))
    assert document.headlines[0].startswith("2 arms with 1 seed: too little data to judge the 4 comparisons")
    verdicts = document.sections[0]
    assert "to judge" in verdicts.lead and not any("shows a difference" in line for line in document.headlines)
    names = {series.label for chart in verdicts.charts for series in chart.series}
    assert "not judged" in names and "no difference shown" not in names
