"""Sums by example and by group are what a hand calculation gives, whatever the order of rows."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from tests.analysis.tables import MemoryTable, make_table, random_examples

from sftloss.analysis.signal.frames import open_study
from sftloss.analysis.signal.token_groups import Grouping, signal_of, sum_tokens, token_sums
from sftloss.analysis.signal.views import AnalysisOptions, View
from sftloss.errors import ConfigError, DataError
from sftloss.weights import EXAMPLE_MEAN, SQRT, TOKEN_MEAN

HAND = [
    {"p": [0.5, 0.9], "weight": [0.5, 1.0], "role": [0, 1], "task": "a"},
    {"p": [0.2, 0.2, 0.2], "weight": [0.0, 1.0, 2.0], "task": "b"},
]
OPTIONS = AnalysisOptions(replicates=50)


def view(normalization):
    return View("cross_entropy", normalization)


@pytest.mark.parametrize("normalization, alpha", [(TOKEN_MEAN, 0.0), (EXAMPLE_MEAN, 1.0), (SQRT, 0.5)])
def test_signal_is_the_hand_calculation_with_fractional_weights(normalization, alpha):
    study = open_study(make_table(HAND), OPTIONS)
    size = np.array([1.5, 3.0])
    factor = size**-alpha / (size ** (1 - alpha)).sum()
    # the table holds float32
    np.testing.assert_allclose(study.signal(view(normalization), "S0"), factor * size, rtol=1e-6)
    l1 = np.array([0.5 * 2 * 0.5 + 1.0 * 2 * 0.1, 3.0 * 2 * 0.8])
    np.testing.assert_allclose(study.signal(view(normalization), "S1"), factor * l1, rtol=1e-6)
    np.testing.assert_allclose(study.signal(view(normalization), "S2"), factor * l1 / 2 * 1.2 * 2.0, rtol=1e-6)
    loss = np.array([-0.5 * np.log(0.5) - np.log(0.9), -3 * np.log(0.2)])
    np.testing.assert_allclose(study.signal(view(normalization), "loss"), factor * loss, rtol=1e-6)


def test_coefficients_sum_to_one_under_every_normalization():
    study = open_study(make_table(random_examples(40)), AnalysisOptions(replicates=50, micro_batch=4))
    assert len(study.views) == 4
    for one in study.views:
        assert study.signal(one, "S0").sum() == pytest.approx(1.0, rel=1e-12)


def test_role_weights_multiply_the_datas():
    options = AnalysisOptions(replicates=50, role_weights=(("prompt", 0.25), ("response", 1.0)))
    study = open_study(make_table(HAND), options)
    np.testing.assert_allclose(study.size, [0.25 * 0.5 + 1.0, 3.0])


def test_an_untrained_token_adds_nothing_not_even_a_nan():
    table = make_table(HAND)
    values = ["loss:cross_entropy", "l1:cross_entropy", "l2:cross_entropy", "hidden_norm"]
    holes = [pl.when(pl.col("weight") > 0).then(pl.col(v)).otherwise(float("nan")).alias(v) for v in values]
    study = open_study(MemoryTable(table.tokens().with_columns(holes), table.examples()), OPTIONS)
    clean = open_study(table, OPTIONS)
    for level in ("S1", "S2", "loss"):
        np.testing.assert_array_equal(study.signal(study.view, level), clean.signal(clean.view, level))


def test_group_sums_do_not_depend_on_row_order():
    table = make_table(random_examples(60))
    shuffled = MemoryTable(
        table.tokens().collect().sample(fraction=1.0, shuffle=True, seed=3).lazy(),
        table.examples().collect().sample(fraction=1.0, shuffle=True, seed=4).lazy(),
    )
    groups = {"quarter": Grouping((pl.col("target_logprob").exp() * 4).floor().clip(0, 3), ["a", "b", "c", "d"])}
    found = []
    for one in (table, shuffled):
        study = open_study(one, OPTIONS)
        values = {"S1": signal_of(study, view(EXAMPLE_MEAN), "S1"), "S2": signal_of(study, view(TOKEN_MEAN), "S2")}
        found.append(sum_tokens(study, groups, values)["quarter"])
    np.testing.assert_array_equal(found[0].total, found[1].total)
    np.testing.assert_array_equal(found[0].replicates, found[1].replicates)


def test_group_sums_add_up_to_the_examples_sums():
    study = open_study(make_table(random_examples(60)), OPTIONS)
    codes, names = study.codes("task")
    by_task = study.example_sums(codes, len(names), study.views, "S1")
    by_role = token_sums(study, "role", ["tokens", *(f"signal {one.label}" for one in study.views)])
    assert names == ["add", "list", "yes/no"] and by_task.total[:, 0].tolist() == [20, 20, 20]
    np.testing.assert_allclose(by_task.replicates[..., 1:].sum(1), by_role.replicates.sum(1), rtol=1e-10)


def test_examples_without_tokens_stay_in_the_account():
    table = make_table([*HAND, {"p": [0.5], "weight": 0.0}])
    empty = pl.DataFrame({"example": [7], "path": ["x"], "row": [9]}).lazy()
    study = open_study(MemoryTable(table.tokens(), pl.concat([table.examples(), empty], how="diagonal")), OPTIONS)
    assert study.size.tolist() == [1.5, 3.0, 0.0, 0.0]
    assert study.origins(np.array([1, 3])) == ("data.jsonl:2", "x row 9")


@pytest.mark.parametrize("name, value", [("level", "S9"), ("policy", "fair"), ("role_weights", (("user", 1.0),))])
def test_options_refuse_what_they_do_not_know(name, value):
    with pytest.raises(ConfigError, match=f"^{name}: "):
        AnalysisOptions(**{name: value})


def test_a_table_without_the_loss_or_examples_is_refused():
    with pytest.raises(DataError, match="measures cross_entropy, not 'focal'"):
        open_study(make_table(HAND), AnalysisOptions(objective="focal"))
    table = make_table(HAND)
    with pytest.raises(DataError, match="no examples"):
        open_study(MemoryTable(table.tokens(), table.examples().filter(pl.col("example") > 99)), OPTIONS)
