"""Metrics of outputs against enumeration, scipy and cases written out by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from sftloss.data.examples import Message, Origin, Record
from sftloss.experiments.metrics import output_metrics, pass_at, pass_counts
from sftloss.experiments.metrics.generation import Generated


def row(task: str | None, prompt: str, answer: str) -> Record:
    return Record(Origin("rows", 0), (Message("user", prompt), Message("assistant", answer)), task=task)


def output(number: int, sample: int, text: str, *, ended: bool = True, reference: int = 3, tokens=None) -> Generated:
    ids = tuple(map(ord, text)) if tokens is None else tuple(tokens)
    return Generated(number, sample, ids, text, ended, reference)


def values(outputs, rows) -> dict[str, float]:
    return {name: metric.value() for name, metric in output_metrics(outputs, rows).items()}


@pytest.mark.parametrize(("samples", "right"), [(4, 0), (4, 1), (5, 3), (6, 6)])
def test_pass_at_is_the_share_of_subsets_with_a_right_one(samples, right):
    for n in range(1, samples + 1):
        chosen = list(combinations([i < right for i in range(samples)], n))
        assert pass_at(n, samples, right) == pytest.approx(np.mean([any(c) for c in chosen]), abs=1e-15)


@pytest.mark.parametrize(("samples", "expected"), [(1, ()), (2, (1, 2)), (6, (1, 2, 4)), (16, (1, 2, 4, 8, 16))])
def test_pass_counts_are_those_that_were_computed(samples, expected):
    rows = [row("add", "1 + 1 =", "2")]
    found = output_metrics([output(0, k, "2") for k in range(samples)], rows)
    assert pass_counts(found) == expected


def test_pass_at_is_unbiased():
    """For p = 0.3 of being right and n = 3: its mean over binomial draws is 1 - 0.7^3, where the plug-in's is not."""
    random = np.random.default_rng(0)
    right = random.binomial(6, 0.3, 20_000)
    # standard deviation of one estimate 0.3, of the mean 0.002
    assert np.mean([pass_at(3, 6, int(c)) for c in right]) == pytest.approx(1 - 0.7**3, abs=0.008)
    assert abs(np.mean(1 - (1 - right / 6) ** 3) - (1 - 0.7**3)) > 0.02


@pytest.mark.parametrize(("n", "samples", "right"), [(0, 4, 1), (5, 4, 1), (2, 4, 5), (2, 4, -1)])
def test_pass_at_refuses_what_cannot_be(n, samples, right):
    with pytest.raises(ValueError, match="pass_at: cannot take"):
        pass_at(n, samples, right)


def test_greedy_outputs_are_scored_measured_and_not_compared_with_each_other():
    rows = [row("any", "any fruits", "fig"), row("poem", "write", "a b"), row("add", "1 + 1 =", "2")]
    found = values([output(0, 0, "plum"), output(1, 0, " a b"), output(2, 0, "", ended=False)], rows)
    assert found["exact_match"] == 0.5  # plum is a right answer; the poem has no checker
    assert found["truncated"] == found["empty"] == pytest.approx(1 / 3)
    assert found["length"] == pytest.approx((5 + 5 + 0) / 3) and found["length_ratio"] == pytest.approx(10 / 9)
    assert not {"unique", "self_consistency", "pass_at_1", "abstains_known"} & set(found)


def test_lengths_differ_as_scipy_says():
    random = np.random.default_rng(1)
    lengths, own = random.integers(1, 30, 80), random.integers(5, 40, 80)
    outputs = [
        output(i, 0, "x", tokens=range(length - 1), reference=int(size))
        for i, (length, size) in enumerate(zip(lengths, own, strict=True))
    ]
    found = values(outputs, [row(None, "q", "a")] * 80)
    assert found["length_ks"] == pytest.approx(ks_2samp(lengths, own).statistic, abs=1e-12)
    assert found["length_ratio"] == pytest.approx(lengths.mean() / own.mean(), rel=1e-12)


def test_samples_of_a_row_are_compared_with_each_other():
    rows = [row("any", "any fruits", "fig"), row("any", "any tools", "saw")]
    texts = [["fig", "fig", "plum", "cat"], ["cat", "cat", "cat", "saw"]]
    found = values([output(i, k, text) for i, line in enumerate(texts) for k, text in enumerate(line)], rows)
    assert found["unique"] == (3 / 4 + 2 / 4) / 2
    assert found["exact_match"] == (3 / 4 + 1 / 4) / 2
    assert found["self_consistency"] == (1 + 0) / 2
    assert found["pass_at_1"] == found["exact_match"] and found["pass_at_4"] == 1.0
    assert found["pass_at_2"] == pytest.approx((1.0 + 0.5) / 2)
    # letters of all samples of a row: figfigplumcat has 10 different of 13, catcatcatsaw 5 of 12
    assert found["distinct_1"] == pytest.approx((10 + 5) / (13 + 12))


def test_ties_of_self_consistency_are_shared():
    rows = [row("any", "any fruits", "fig")]
    found = values([output(0, k, text) for k, text in enumerate(["fig", "cat", "fig", "cat"])], rows)
    assert found["self_consistency"] == 0.5


def test_repetition_is_the_share_of_repeated_ngrams():
    rows = [row(None, "q", "a")] * 3
    outputs = [
        output(0, 0, "x", tokens=[1, 2, 1, 2, 1, 2]),  # pairs 12 21 12 21 12: 2 of 5; fours 1212 2121 1212: 2 of 3
        output(1, 0, "x", tokens=[1, 2, 3]),
        output(2, 0, "x", tokens=[7]),
    ]
    found = values(outputs, rows)
    assert found["repetition"] == pytest.approx(1 / 3)


def test_abstention_is_counted_where_it_is_right_and_where_it_is_wrong():
    rows = [row("qa", "colour: pear?", "unknown"), row("qa", "colour: pig?", "gold"), row("qa", "colour: cat?", "gold")]
    found = values([output(0, 0, "unknown"), output(1, 0, "unknown"), output(2, 0, "gold")], rows)
    assert found["abstains_unknown"] == 1.0 and found["abstains_known"] == 0.5
    assert found["exact_match"] == pytest.approx(2 / 3)


def test_outputs_of_other_rows_are_refused():
    rows = [row(None, "q", "a")]
    with pytest.raises(ValueError, match="output_metrics: an output is of row 1"):
        output_metrics([output(0, 0, "x"), output(1, 0, "x")], rows)
    with pytest.raises(ValueError, match="equally many"):
        output_metrics([output(0, 0, "x")], rows * 2)
