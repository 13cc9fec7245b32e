"""Hard tokens and easy ones: a grouping that favours no arm, and what it says of a planted difference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.experiments.made import PLAN, ROWS, results

from sftloss.experiments.experiment import arm_labels
from sftloss.experiments.pages.describe import experiment_document
from sftloss.experiments.pages.groups import by_difficulty, difficulty_section, thirds
from sftloss.experiments.run.results import TokenScores, load, save
from sftloss.experiments.verdicts.comparisons import Results

TOKENS = 30 * ROWS


def scored(gain: float = 0.0, spread: float = 1.0) -> Results:
    """Both arms err by chance at each token; the second is `gain` nats better where a token is hard."""
    found = results()
    hardness = np.random.default_rng(1).gamma(2.0, 1.0, TOKENS)
    chance = np.random.default_rng(2)
    is_hard = hardness > np.quantile(hardness, 2 / 3)
    for run, result in found.by_trial.items():
        nll = hardness + spread * chance.normal(size=TOKENS) - gain * is_hard * (run.arm == found.arms[1])
        scores = TokenScores(np.repeat(np.arange(ROWS, dtype=np.int32), 30), nll.astype(np.float32), nll < 1.0)
        found.by_trial[run] = replace(result, scores=scores)
    return found


def changes(found: Results) -> list[float]:
    split = by_difficulty(found)
    return [split.difference(found.arms[1], f"nll_{third}").value for third in ("easy", "middle", "hard")]


def test_thirds_hold_equally_many_and_are_in_order_of_the_mean_loss():
    losses = np.random.default_rng(0).random((4, 31))
    code = thirds(losses)
    assert np.bincount(code).tolist() == [11, 10, 10]
    mean = losses.mean(axis=0)
    assert mean[code == 0].max() <= mean[code == 1].min() and mean[code == 1].max() <= mean[code == 2].min()


def test_arms_that_do_not_differ_do_not_differ_on_hard_tokens():
    """Thirds by the first arm's own loss would say that the second is much better there; its chance errors are."""
    found = scored()
    # three seeds of 600 tokens an arm: a standard error of sqrt(2 / 1800) = 0.033
    assert changes(found) == pytest.approx([0, 0, 0], abs=0.1)
    mine, theirs = (np.stack([r.scores.nll for r in found.of(arm)]) for arm in found.arms)
    own = thirds(mine[:1])
    assert (theirs - mine)[0, own == 2].mean() < -0.4


def test_a_planted_gain_on_hard_tokens_is_found_there_alone():
    easy, _, hard = changes(scored(0.5, spread=0.1))
    assert hard == pytest.approx(-0.5, abs=0.05) and easy == pytest.approx(0.0, abs=0.05)


def test_the_section_says_each_third_of_each_arm():
    found = scored(0.5, spread=0.1)
    names = dict(zip(found.arms, arm_labels(found.arms), strict=True))
    section = difficulty_section(found)
    (table,) = section.tables
    assert [row[:2] for row in table.rows] == [(t, a) for t in ("easy", "middle", "hard") for a in names.values()]
    row = dict(zip([column.key for column in table.columns], table.rows[-1], strict=True))
    code = thirds(np.stack([r.scores.nll for r in found.by_trial.values()]))
    mine = [r.scores for r in found.of(found.arms[1])]
    assert row["nll"] == pytest.approx(np.mean([one.nll[code == 2].mean() for one in mine]))
    assert row["top1"] == pytest.approx(np.mean([one.is_top1[code == 2].mean() for one in mine]))
    assert row["change_low"] < row["change"] < row["change_high"] < -0.3
    assert f"on hard tokens dft {row['change']:+.3g}" in section.lead
    assert "difficulty" in [section.id for section in experiment_document(PLAN, found).sections]


def test_there_is_no_section_without_losses_to_compare_or_scores():
    found = scored()
    assert difficulty_section(results()) is None
    last = list(found.by_trial)[-1]
    other = replace(found.by_trial[last].scores, example=np.zeros(TOKENS, np.int32))
    assert (
        by_difficulty(replace(found, by_trial={**found.by_trial, last: replace(found.by_trial[last], scores=other)}))
        is None
    )
    experiment = replace(PLAN, losses=("cross_entropy",), normalizations=("token-mean", "1"))
    same = results(experiment=experiment)
    scores = found.first.scores
    same = replace(same, by_trial={run: replace(result, scores=scores) for run, result in same.by_trial.items()})
    assert by_difficulty(same) is not None
    assert difficulty_section(same) is None


def test_scores_come_back_as_they_were_saved(tmp_path):
    found = scored()
    for run, result in found.by_trial.items():
        save(tmp_path, result, ())
        back = load(tmp_path, run, "d").scores
        for name, value in vars(result.scores).items():
            assert (getattr(back, name) == value).all() and getattr(back, name).dtype == value.dtype
