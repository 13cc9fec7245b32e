"""Intervals over examples and seeds: what they cover, and what they are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tests.paths import ROOT

from sftloss.experiments.metrics.differences import Mean, VariancePart, crossed_mean, linearised
from sftloss.experiments.verdicts.comparisons import least_seeds


def test_one_seed_gives_the_interval_of_a_t_test():
    values = np.random.default_rng(0).normal(0.3, 1.0, 20)
    values = np.concatenate([values, 0.6 - values])  # without skewness
    found = crossed_mean(values[None]).interval(0.95)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_two_parts_have_a_quantile_each():
    half = np.random.default_rng(1).normal(0.0, 1.0, (3, 25))
    table = 0.2 + np.concatenate([half, 0.3 - half], axis=1)  # examples without skewness
    found = crossed_mean(table)
    squares = [stats.t.ppf(0.99, n - 1) ** 2 * stats.sem(table.mean(axis=axis)) ** 2 for axis, n in ((0, 50), (1, 3))]
    assert found.interval(0.98).high - found.value == pytest.approx(math.sqrt(sum(squares)))


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("spread", [0.0, 0.1, 0.3])
def test_intervals_cover_the_truth(seeds, spread):
    """Whether examples or seeds are what varies."""
    random = np.random.default_rng(2)
    hits = 0
    for _ in range(600):
        table = random.normal(size=(1, 80)) + spread * random.normal(size=(seeds, 1)) + random.normal(size=(seeds, 80))
        bounds = crossed_mean(table).interval(0.95)
        hits += bounds.low <= 0.0 <= bounds.high
    # three standard errors of a share of 600 below 0.95
    assert hits / 600 > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 600)


def differences_of_examples(kind: str, count: int, random: np.random.Generator) -> np.ndarray:
    """Differences with mean zero, ``(5, count)``: the same examples under five seeds."""
    name, _, parameter = kind.partition(" ")
    if name == "normal":
        return random.normal(size=count) + 0.5 * random.normal(size=(5, count))
    if name == "flips":  # right answers that change in few examples, and the same ones under every seed
        return np.repeat((random.random(count) < float(parameter))[None] - float(parameter), 5, axis=0)
    size = float(parameter)
    values = np.exp(size * random.normal(size=count)) - np.exp(size**2 / 2)
    return values + 0.5 * values.std() * random.normal(size=(5, count))


KINDS = {
    "lognormal, log standard deviation 0.5": "lognormal 0.5",
    "1 % of the answers change": "flips 0.01",
    "3 % of the answers change": "flips 0.03",
}


def rows_of_the_docs(head: str) -> Iterator[list[str]]:
    """The cells of the rows of the table of docs/compare.md that begins with `head`."""
    text = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    for line in text.split(head)[1].split("\n\n")[0].splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count", "alone", "here"), list(rows_of_the_docs("| differences of examples |")))
def test_skewed_examples_and_rare_flips_miss_as_often_as_the_docs_say(kind, count, alone, here):
    """One of 150 comparisons, five seeds: Student's interval alone, and with the correction."""
    kind = KINDS.get(kind, kind)
    random, missed = np.random.default_rng(8), np.zeros(2)
    for _ in range(4000):
        mean = crossed_mean(differences_of_examples(kind, int(count), random), float(kind.startswith("flips")))
        student = replace(mean, parts=tuple(replace(part, skewness=0.0, bound=0.0) for part in mean.parts))
        bounds = [one.interval(1.0 - 0.05 / 150) for one in (student, mean)]
        missed += [not one.low <= 0.0 <= one.high for one in bounds]
    print(f"| {kind} | {count} | {missed[0] / 40:.2f} % | {missed[1] / 40:.2f} % |")
    stated = np.array([float(share.rstrip(" %")) / 100 for share in (alone, here)])
    # three standard errors of a share of 4,000, one miss more so that a share near zero has one too
    assert np.all(np.abs(missed / 4000 - stated) <= 3 * np.sqrt((stated + 1 / 4000) / 4000))


def test_a_mean_that_few_examples_decide_is_fragile():
    values = np.random.default_rng(9).normal(size=(3, 200))
    assert not crossed_mean(values).is_fragile
    values[:, 7] += 60.0
    assert crossed_mean(values).is_fragile


@pytest.mark.parametrize("arms", [2, 3, 8, 28, 60])
def test_seeds_that_work_or_fail_give_a_false_verdict_in_one_of_twenty_reports_at_most(arms):
    """A training fails with probability q whatever its arm: the largest probability over all q that all of the first
    arm fail and all of another work, or the reverse."""
    seeds, others = least_seeds(arms), arms - 1
    q = np.linspace(0.01, 0.99, 99)
    all_fail, all_work = q**seeds, (1 - q) ** seeds
    false = all_fail * (1 - (1 - all_work) ** others) + all_work * (1 - (1 - all_fail) ** others)
    assert false.max() <= 0.05 + 0.003  # with many arms the largest is not quite at 1/2


def test_seeds_that_disagree_widen_the_interval():
    random = np.random.default_rng(3)
    table = 0.1 * random.normal(size=(3, 200))
    apart = table + np.array([[-1.0], [0.0], [1.0]])
    assert crossed_mean(apart).error > 20 * crossed_mean(table).error


def test_linearised_ratio_has_the_ratio_as_its_mean():
    random = np.random.default_rng(4)
    top, bottom = random.random((2, 30)), random.integers(0, 5, (2, 30)).astype(float)
    groups = random.integers(0, 9, 30)
    for codes in (None, groups):
        table = linearised(top, bottom, codes)
        assert table.mean(axis=1) == pytest.approx(top.sum(axis=1) / bottom.sum(axis=1))
    assert table.shape == (2, len(set(groups)))


def test_copies_of_a_prompt_do_not_narrow_the_interval():
    values = np.random.default_rng(5).normal(size=(3, 20))
    once = crossed_mean(linearised(values, np.ones((3, 20))))
    copied = linearised(np.tile(values, 4), np.ones((3, 80)), np.tile(np.arange(20), 4))
    assert crossed_mean(copied).error == pytest.approx(once.error)


def test_equal_arms_differ_by_nothing():
    mean = crossed_mean(np.zeros((3, 10)))
    assert mean.value == 0.0 and mean.error == 0.0 and mean.interval() is not None
    assert (mean.interval().low, mean.interval().high) == (0.0, 0.0)


def test_one_example_has_no_interval():
    assert crossed_mean(np.ones((3, 1))).interval() is None


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.0), (3, 1.0), (5, 0.3)])
def test_detectable_difference_is_found_in_four_of_five(seeds, spread):
    """Of experiments whose noise is as it says: one in many, so that its own estimate is no luck."""
    random = np.random.default_rng(6)

    def experiment():
        return random.normal(size=(1, 60)) + spread * random.normal(size=(seeds, 1)) + random.normal(size=(seeds, 60))

    many = [crossed_mean(experiment()).parts for _ in range(2000)]
    noise = tuple(VariancePart(float(np.mean([p[i].variance for p in many])), many[0][i].df) for i in (0, 1))
    truth = Mean(0.0, noise, seeds).detectable(0.99)
    found = sum(crossed_mean(experiment() + truth).interval(0.99).low > 0.0 for _ in range(400)) / 400
    # two standard errors of a share of 400 below; above, the two ways to miss are added as if they came together
    assert 0.8 - 2 * 0.02 < found < 0.95


def simulated(seeds: int, spread: float, reports: int = 400):
    """Share of reports of equal arms with a false verdict; shares of differences of 5, 8 and 12 errors found.

    Four arms, six dependent measures, 18 comparisons; what is shared by the measures of an arm and by the arms,
    through the first arm that all are compared with.
    """
    random, level, false, found = np.random.default_rng(7), 1.0 - 0.05 / 18, 0, np.zeros(3)
    error = math.sqrt(2 * (spread**2 / seeds + 1 / 60 + 1 / (60 * seeds)))
    for _ in range(reports):
        own, noise = random.normal(size=(4, 1, 1, 60)), random.normal(size=(4, 6, seeds, 60))
        arms = own + noise + spread * random.normal(size=(4, 6, seeds, 1))
        bounds = [crossed_mean(table).interval(level) for arm in arms[1:] for table in arm - arms[0]]
        false += any(not one.low <= 0.0 <= one.high for one in bounds)
        found += [np.mean([one.low + times * error > 0.0 for one in bounds]) for times in (5, 8, 12)]
    return false / reports, *(found / reports)


def table_of_the_docs():
    for seeds, spread, *shares in rows_of_the_docs("| seeds | spread of seeds |"):
        yield int(seeds), float(spread), [float(share.rstrip("%")) / 100 for share in shares]


@pytest.mark.parametrize(("seeds", "spread", "stated"), list(table_of_the_docs()))
def test_verdicts_are_as_often_false_and_as_often_found_as_the_docs_say(seeds, spread, stated):
    """Degrees of freedom pooled from the two variances let 10 to 32 % of the reports of three seeds err."""
    false, *found = simulated(seeds, spread)
    assert stated[0] <= 0.05
    # three standard errors of a share of 400, one report more so that a share near zero has one too
    assert false == pytest.approx(stated[0], abs=3 * math.sqrt((stated[0] + 1 / 400) / 400))
    # 18 dependent comparisons a report count as 6, three standard errors of them
    assert found == pytest.approx(stated[1:], abs=3 * math.sqrt(0.25 / 2400))


def test_differences_that_cancel_have_a_mean_of_zero() -> None:
    table = np.array([[0.1, 0.2, -0.3], [0.3, -0.1, -0.2]])
    assert table.mean() != 0  # what is left in floating point
    assert crossed_mean(table).value == 0
    assert crossed_mean(table + 1e-9).value == pytest.approx(1e-9)
