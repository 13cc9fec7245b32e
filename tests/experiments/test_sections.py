"""The values behind a comparison's tables and pictures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.experiments.made import PLAN, ROWS, arm_result, results

from sftloss.experiments.experiment import Experiment, arm_labels
from sftloss.experiments.metrics import Ratio
from sftloss.experiments.pages.describe import experiment_document
from sftloss.experiments.verdicts.comparisons import HEADLINE, Results, comparisons, measures_of

BY_LENGTH = Experiment(normalizations=("token-mean", "example-mean"), seeds=(0, 1, 2))
MANY = Experiment(losses=tuple(f"focal(gamma={k})" for k in range(1, 9)), seeds=(0, 1, 2))


def spoiled(given: Results, arm: int, **metrics) -> Results:
    """The same with other metrics of one arm; each is made from the arm's own result."""
    found = {
        run: replace(one, metrics={**one.metrics, **{k: make(one.metrics) for k, make in metrics.items()}})
        if run.arm == given.arms[arm]
        else one
        for run, one in given.by_trial.items()
    }
    return Results(given.arms, given.seeds, found)


def table(document, key):
    (found,) = [t for s in document.sections for t in s.tables if t.id == key]
    return found


def chart(document, key):
    (found,) = [c for s in document.sections for c in s.charts if c.id == key]
    return found


def shorter(metrics):
    """A tenth off every answer of the first arm's length, and a little to and fro."""
    return Ratio(0.9 * metrics["length_ratio"].top + 0.01 * np.cos(np.arange(ROWS)), metrics["length_ratio"].bottom)


def test_lengths_are_set_against_the_first_arm_on_the_same_prompts():
    """Every answer a tenth shorter is 0.90 and nothing else, however much prompts and seeds differ."""
    given = spoiled(results(experiment=BY_LENGTH), 1, length_ratio=shorter)
    document = experiment_document(BY_LENGTH, given)
    ((name, predicted, bound, generated, low, high),) = table(document, "lengths").rows
    assert name == "example mean" and (predicted, bound) == (1.0, 1.0)
    assert generated == pytest.approx(0.9, abs=1e-3) and 0.89 < low < generated < high < 0.91
    (references, first, second) = table(document, "length-tokens").rows
    assert references[:2] == ("references", np.mean(given.first.reference_lengths))
    assert first[0] == "token mean" and first[1] == pytest.approx(given.mean(given.arms[0], "length").value)
    assert second[4] == pytest.approx(0.9 * first[4], rel=0.01)


def test_lengths_predicted_are_relative_too():
    given = results(experiment=BY_LENGTH)
    first = given.arms[0]
    flat = {run: replace(one, forecasts={k: replace(f, within_prompt=f.data, whole=f.data)
                                         for k, f in one.forecasts.items()}) if run.arm == first else one
            for run, one in given.by_trial.items()}  # fmt: skip
    document = experiment_document(BY_LENGTH, Results(given.arms, given.seeds, flat))
    ((_, predicted, bound, *_),) = table(document, "lengths").rows
    assert (predicted, bound) == (3.5 / 4, 3.0 / 4)
    copy, add = table(document, "lengths-task").rows
    assert copy[:3] == ("copy", "example mean", 5.0 / 6) and add[:3] == ("add", "example mean", 1.0)
    predicted = "example mean predicted 0.88× within prompts, 0.75× at the bound; generated 1.00×"
    assert any(predicted in line for line in document.headlines)


def test_lengths_are_judged_where_the_normalization_tilts_them_and_nowhere_else():
    given = spoiled(results(experiment=BY_LENGTH), 1, length_ratio=shorter)
    (measure,) = [one for one in measures_of(given) if one.key == "length_ratio"]
    assert measure.among == ("copy",) and measure.name == "answer length (generated over reference; task copy)"
    (compared,) = [one for one in comparisons(given) if one.measure == measure]
    copies = np.asarray(given.first.groups.task) == "copy"
    assert compared.difference == given.difference(given.arms[1], "length_ratio", copies)
    assert measures_of(results()) == HEADLINE
    assert [one for one in measures_of(given) if one != measure] == [o for o in HEADLINE if o.key != "length_ratio"]


@pytest.mark.parametrize("group", ["task", "language"])
def test_groups_have_both_losses_right_answers_and_lengths(group):
    given = results(0.1)
    labels_ = np.asarray(getattr(given.first.groups, group))
    for key in ("token_nll", "example_nll", "exact_match", "length_ratio"):
        found = table(experiment_document(PLAN, given), f"groups-{group}-{key}")
        assert [column.label for column in found.columns] == [
            group,
            "cross_entropy",
            "low",
            "high",
            "dft",
            "low",
            "high",
        ]
        for row, name in zip(found.rows, sorted(set(labels_)), strict=True):
            where = labels_ == name
            assert row[0] == f"{name} ({where.sum()})"
            assert (row[1], row[4]) == tuple(given.mean(arm, key, where).value for arm in given.arms)
    assert sorted(set(given.first.groups.language)) == ["en", "zh"]


def test_many_arms_are_rows_and_every_task_stays_in_sight():
    found = table(experiment_document(MANY, results(experiment=MANY)), "groups-task-token_nll")
    assert [row[0] for row in found.rows] == list(arm_labels(MANY.arms()))
    assert [c.label for c in found.columns if c.label not in ("low", "high")] == ["arm", "add (30)", "copy (30)"]


@pytest.mark.parametrize(("samples", "passes"), [(2, ["pass@2"]), (16, ["pass@2", "pass@4", "pass@8", "pass@16"])])
def test_every_pass_at_that_was_evaluated_is_shown(samples, passes):
    """The commonest of two samples scores what the samples score, by construction."""
    half = Ratio(np.full(ROWS, 0.5), np.ones(ROWS))
    names = ["sample_match", "self_consistency", *(f"pass_at_{2**k}" for k in range(5) if 2**k <= samples)]
    given = results()
    found = {run: replace(one, metrics={**one.metrics, **dict.fromkeys(names, half)}, lengths=((3,) * samples,) * ROWS)
             for run, one in given.by_trial.items()}  # fmt: skip
    shown = table(experiment_document(PLAN, Results(given.arms, given.seeds, found)), "metrics-samples")
    columns = [column.label for column in shown.columns[1:] if column.label not in ("low", "high")]
    assert columns == ["right samples", *passes, *(["commonest right"] if samples > 2 else [])]


@pytest.mark.parametrize(("samples", "kind"), [(0, "greedy"), (4, "sampled")])
def test_answers_are_called_what_they_are(samples, kind):
    given = results()
    drawn = {trial: replace(one, is_sampled=samples > 0) for trial, one in given.by_trial.items()}
    document = experiment_document(replace(PLAN, samples=samples), replace(given, by_trial=drawn))
    assert table(document, "metrics-answers").title == f"Length and form of {kind} answers"
    (lengths,) = [section for section in document.sections if section.id == "lengths"]
    assert f"{kind} answers: cross_entropy" in lengths.lead


def test_a_forest_plot_tells_a_verdict_from_none_and_has_the_simultaneous_interval():
    experiment = replace(PLAN, losses=("cross_entropy", "dft", "focal(gamma=2)"), seeds=(0, 1, 2, 3))
    one_more = lambda m: Ratio(m["token_nll"].top + m["token_nll"].bottom, m["token_nll"].bottom)  # noqa: E731
    given = spoiled(results(experiment=experiment), 1, token_nll=one_more)
    one, other = (c for c in comparisons(given) if c.measure.key == "token_nll")
    shown, silent, zero = chart(experiment_document(experiment, given), "forest-token_nll").series
    assert (shown.label, shown.is_faint, silent.is_faint) == ("difference shown", False, True)
    assert (shown.y, shown.low, shown.high) == (
        (one.difference.value, None), (one.bounds.low, None), (one.bounds.high, None))  # fmt: skip
    assert (silent.y, silent.low) == ((None, other.difference.value), (None, other.bounds.low))
    assert shown.y[0] == pytest.approx(1.0, abs=0.05) and zero.is_reference and zero.y == (0.0, 0.0)


def test_shares_differ_in_percentage_points_and_by_a_hundred_at_most():
    """Two examples that all seeds answer otherwise: the interval of the arithmetic reaches beyond what can be."""

    def few(values):
        top, there = np.zeros(ROWS), np.zeros(ROWS)
        top[: len(values)], there[: len(values)] = values, 1.0
        return lambda _: Ratio(top, there)

    given = spoiled(spoiled(results(), 0, exact_match=few([0.0, 0.0])), 1, exact_match=few([1.0, 0.0]))
    document = experiment_document(PLAN, given)
    plain = given.difference(given.arms[1], "exact_match").interval()
    assert plain.high > 1.0
    forest = chart(document, "forest-exact_match")
    assert (forest.series[0].y, forest.series[0].high) == ((50.0,), (100.0,))
    assert forest.y_label == "difference, percentage points (higher is better)"
    assert "dft +50 percentage points" in forest.description
    (row,) = [row for row in table(document, "comparisons").rows if row[0] == "right answers"]
    assert row[2] == 50.0 and row[4] == 100.0 and row[6:9] == (2, None, "percentage points")
    assert "right answers none, however large" in " ".join(finding.why for finding in document.findings)


def test_curves_begin_after_the_start_and_their_band_is_the_seeds():
    given = results(0.3)
    drawn = chart(experiment_document(PLAN, given), "curves")
    assert [one.x for one in drawn.series] == [(5.0, 10.0)] * 2
    assert drawn.series[1].y == (3.0, pytest.approx(2.3)) and drawn.bounds == "lowest to highest seed"
    (section,) = [s for s in experiment_document(PLAN, given).sections if s.id == "curves"]
    assert (
        section.lead == drawn.description and "from 5 nats per token to: cross_entropy 2 and dft 2.30" in section.lead
    )


def test_of_many_arms_a_chart_names_the_first_the_best_and_the_worst():
    given = results(experiment=MANY)
    found = {run: arm_result(run, 0.1 * abs(k - 3)) for k, arm in enumerate(given.arms) for run in given.by_trial
             if run.arm == arm}  # fmt: skip
    document = experiment_document(MANY, Results(given.arms, given.seeds, found))
    for key in ("curves", "length-distribution", "reliability"):
        drawn = [one for one in chart(document, key).series if not one.is_reference]
        assert [one.label for one in drawn if not one.is_faint] == [f"focal(gamma={k})" for k in (1, 4, 8)], key
        assert len(drawn) == 8 and "grey: 5 others" in chart(document, key).description


def test_the_distribution_of_lengths_and_reliability_are_what_was_measured():
    given = results()
    document = experiment_document(PLAN, given)
    references, first, _ = chart(document, "length-distribution").series
    pooled = np.concatenate([np.ravel(r.lengths) for r in given.of(given.arms[0])])
    for line, values in ((references, np.asarray(given.first.reference_lengths)), (first, pooled)):
        assert line.y == tuple(float((values <= x).mean()) for x in line.x) and line.y[-1] > 0.9
    assert references.is_reference and first.y != references.y
    diagonal, ours, _ = chart(document, "reliability").series
    assert diagonal.is_reference and (ours.x, ours.y) == (pytest.approx((0.3, 0.8)), pytest.approx((0.2, 0.9)))
    diagonal, ours, _ = chart(document, "end-reliability").series
    assert diagonal.is_reference and (ours.x, ours.y) == (pytest.approx((0.1, 0.6)), pytest.approx((0.05, 0.7)))


def test_intervals_of_metrics_end_where_the_metric_does():
    for row in table(experiment_document(PLAN, results()), "metrics-loss").rows:
        assert all(low is None or low >= 0 for low in row[2::3]) and not any(
            isinstance(v, float) and math.isnan(v) for v in row
        )
