"""What a study answers: read from the verdicts, whichever way they fall."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.experiments.made import ROWS, results
from tests.experiments.test_sections import spoiled

from sftloss.experiments import STUDIES
from sftloss.experiments.metrics import Ratio
from sftloss.experiments.pages.describe import experiment_document
from sftloss.experiments.studies import claim_answer, study_page

NAMES = [name for name, one in STUDIES.items() if one.claim is not None]


def planted(name, **moved):
    """The study's document, measures of its last arm moved by so much an example: 0.3 times a claimed direction."""
    experiment = replace(STUDIES[name].experiment, seeds=(0, 1, 2, 3))
    noise = 0.01 * np.cos(np.arange(ROWS))
    makers = {
        key: (lambda m, key=key, by=by: Ratio(m[key].top + (by + noise) * m[key].bottom, m[key].bottom))
        for key, by in moved.items()
    }
    return experiment_document(
        experiment, spoiled(results(experiment=experiment), len(experiment.arms()) - 1, **makers)
    )


def claimed(name):
    return "length_ratio" if STUDIES[name].claim.measure == "answer length" else "exact_match"


def test_every_study_of_a_claim_names_a_measure_that_is_judged():
    assert NAMES == ["length", "focal", "instruction-response"]
    for name in NAMES:
        rows = [row for s in planted(name).sections for t in s.tables if t.id == "comparisons" for row in t.rows]
        assert any(row[0].startswith(STUDIES[name].claim.measure) for row in rows)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_follows_the_verdict(name):
    claim, last = STUDIES[name].claim, planted(name).sections[0].charts[0].series[0].x[-1]
    sign = 1 if claim.direction == "higher" else -1
    for by, word in ((0.3 * sign, "supported"), (-0.3 * sign, "contradicted")):
        told = claim_answer(planted(name, **{claimed(name): by}), claim)
        assert told.startswith(f"The claim that {claim.statement} is {word} for {last}; no difference is shown for ")
        assert f" {last}: " in told and (" higher than with " if by > 0 else " lower than with ") in told
    assert "neither supported nor contradicted: no difference is shown." in claim_answer(planted(name), claim)


def test_an_answer_says_what_else_differs_and_what_does_not():
    told = claim_answer(planted("length", token_nll=0.3), STUDIES["length"].claim)
    assert "neither supported nor contradicted" in told and "example mean: held-out loss per token is 0.3" in told
    assert told.endswith("; task copy).") and "No difference is shown in held-out loss per example" in told


def test_arms_that_disagree_are_both_named():
    experiment = replace(STUDIES["focal"].experiment, seeds=(0, 1, 2, 3))
    given = results(experiment=experiment)
    for arm, by in ((1, 0.3), (2, -0.3)):
        given = spoiled(given, arm, exact_match=lambda m, by=by: Ratio(m["exact_match"].top + by, np.ones(ROWS)))
    told = claim_answer(experiment_document(experiment, given), STUDIES["focal"].claim)
    assert "is supported for focal(gamma=1) and contradicted for focal(gamma=2)." in told


def test_beside_arms_that_disagree_those_without_a_verdict_are_named():
    losses = ("cross_entropy", "focal(gamma=1)", "focal(gamma=2)", "focal(gamma=3)")
    experiment = replace(STUDIES["focal"].experiment, losses=losses, seeds=(0, 1, 2, 3))
    given = results(experiment=experiment)
    for arm, by in ((1, 0.3), (2, -0.3)):
        given = spoiled(given, arm, exact_match=lambda m, by=by: Ratio(m["exact_match"].top + by, np.ones(ROWS)))
    told = claim_answer(experiment_document(experiment, given), STUDIES["focal"].claim)
    assert "contradicted for focal(gamma=2); no difference is shown for focal(gamma=3)." in told


def test_too_few_seeds_answer_nothing():
    experiment = replace(STUDIES["focal"].experiment, seeds=(0, 1))
    told = claim_answer(experiment_document(experiment, results(0.5, experiment=experiment)), STUDIES["focal"].claim)
    assert told == "There are too few seeds for any verdict."


def test_a_page_answers_right_after_the_question():
    page = study_page("focal", planted("focal", exact_match=-0.3))
    question, told = page.split("\n\n")[1:3]
    assert question == STUDIES["focal"].question
    assert told.startswith("**Answer.** The claim that focal loss gives more right answers is contradicted for focal")
