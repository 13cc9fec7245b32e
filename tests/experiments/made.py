"""Results of trainings that never were: `from tests.experiments.made import results`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sftloss.analysis.lengths.forecast import LengthRange
from sftloss.experiments.experiment import Arm, Experiment, Trial
from sftloss.experiments.metrics import Bin, Gap, Ratio
from sftloss.experiments.run.results import Answer, ArmResult, Point, RowGroups
from sftloss.experiments.verdicts.comparisons import Results

PLAN = Experiment(losses=("cross_entropy", "dft"), seeds=(0, 1, 2))
ROWS = 60


def with_recipe(experiment: Experiment, **changes: Any) -> Experiment:
    """The same experiment with other values in its training recipe."""
    return replace(experiment, recipe=replace(experiment.recipe, **changes))


def arm_result(trial: Trial, shift: float, digest: str = "d") -> ArmResult:
    """`shift` nats are added to every token of every example."""
    random = np.random.default_rng(trial.seed)
    shared = np.random.default_rng(100)  # what makes an example hard, whatever the arm and the seed
    size = shared.integers(1, 9, ROWS).astype(float)
    nll = size * (1.0 + shared.gamma(2.0, 0.3, ROWS) + shift + 0.02 * random.normal(size=ROWS))
    ones = np.ones(ROWS)
    right = (shared.random(ROWS) + 0.05 * random.normal(size=ROWS) > 0.4).astype(float)
    generated = size + 0.1 * random.normal(size=ROWS)
    return ArmResult(
        trial,
        digest,
        steps=10,
        tokens=500,
        trained_tokens=300,
        metrics={
            "token_nll": Ratio(nll, size),
            "example_nll": Ratio(nll / size, ones),
            "exact_match": Ratio(right, ones),
            "length": Ratio(generated, ones),
            "length_ratio": Ratio(generated, size),
            "ece": Gap(random.normal(size=(ROWS, 3)), size),
        },
        curve=(Point(0, 5.0), Point(5, 3.0), Point(10, 2.0 + shift)),
        reliability=(Bin(0.0, 0.5, 9, 0.3, 0.2), Bin(0.5, 1.0, 9, 0.8, 0.9)),
        end_reliability=(Bin(0.0, 1.0, 9, 0.1, 0.05), Bin(2.0, 3.0, 9, 0.6, 0.7)),
        lengths=tuple((int(n), int(n) + 1) for n in size),
        reference_lengths=tuple(int(n) for n in size),
        groups=RowGroups(("add", "copy") * (ROWS // 2), ("en", "en", "zh") * (ROWS // 3), tuple(range(ROWS))),
        forecasts={
            "": LengthRange(4.0, 3.5, 3.0),
            "add": LengthRange(2.0, 2.0, 1.5),
            "copy": LengthRange(6.0, 5.0, 4.0),
        },
        versions={"torch": "2"},
    )


def results(shift: float = 0.0, *, experiment: Experiment = PLAN) -> Results:
    """Both arms with every seed; the second arm's loss is `shift` nats a token higher."""
    arms = experiment.arms()
    found = {trial: arm_result(trial, shift if trial.arm != arms[0] else 0.0) for trial in experiment.trials()}
    return Results(arms, experiment.seeds, found)


def said(arm: Arm) -> tuple[Answer, ...]:
    """Answers with everything a page must not obey."""
    return tuple(
        Answer(f"<b>{i}</b>", "red", f"<script>alert('{arm.loss}')</script>", ("red", "blue"), float(i % 2))
        for i in range(ROWS)
    )
