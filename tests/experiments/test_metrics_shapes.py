"""Ratios and gaps: weights are repetitions, files are exact."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftloss.experiments.metrics import Gap, Ratio, read_metric


def metrics(seed: int, examples: int):
    random = np.random.default_rng(seed)
    top, bottom = random.normal(size=examples), random.integers(1, 9, examples).astype(float)
    gap = random.normal(size=(examples, 4))
    return {"mean": Ratio(top, bottom), "ece": Gap(gap, bottom), "a/b": Gap(gap, bottom, "max")}


@given(st.integers(0, 10**6), st.lists(st.integers(0, 3), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_a_weight_is_how_often_an_example_is_there(seed, counts):
    for metric in metrics(seed, len(counts)).values():
        arrays = {name: np.repeat(part, counts, axis=0) for name, part in vars(metric).items() if name != "norm"}
        repeated = replace(metric, **arrays).value()
        weighted = metric.value(np.array(counts, dtype=float))
        assert weighted == pytest.approx(repeated, rel=1e-12, abs=1e-12, nan_ok=True)  # sums in another order
        assert metric.value() == pytest.approx(metric.value(np.ones(len(counts))), rel=1e-12, abs=1e-12)


def test_ratio_of_nothing_is_no_number():
    assert np.isnan(Ratio(np.zeros(2), np.zeros(2)).value()) and np.isnan(Gap(np.zeros((2, 3)), np.zeros(2)).value())


def test_gap_sums_bins_or_takes_the_largest():
    gap, size = np.array([[1.0, -2.0], [1.0, 0.0]]), np.array([1.0, 1.0])
    assert Gap(gap, size).value() == 2.0 and Gap(gap[:1], size[:1], "max").value() == 2.0


def test_metrics_come_back_from_json_bit_for_bit():
    for metric in metrics(0, 5).values():
        plain = {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(metric).items()
        }
        read = read_metric(json.loads(json.dumps(plain)))
        assert type(read) is type(metric) and read.value() == metric.value()
