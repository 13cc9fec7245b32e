"""Whether a study's recorded directions are found again by a smaller run with other seeds."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from sftloss.document import Document
from sftloss.errors import DataError
from sftloss.experiments.comparison import compare
from sftloss.experiments.experiment import UNWEIGHTED, Experiment, arm_labels
from sftloss.experiments.pages.steps import STEPS
from sftloss.experiments.run.runner import Execution
from sftloss.experiments.studies import DIFFERENT, Study, study_named, table_rows
from sftloss.words import number

_SEEDS = 3


@dataclass(frozen=True)
class Direction:
    """A difference of the record and the same difference in the smaller run.

    Attributes:
        name: Measure and arm.
        recorded, repeated: The difference from the first arm; of a relative length, what it is above 1. NaN where
            the smaller run has too little data for it, which does not agree.
    """

    name: str
    recorded: float
    repeated: float

    @property
    def agrees(self) -> bool:
        """Whether both have the same sign."""
        return self.recorded * self.repeated > 0

    def __str__(self) -> str:
        outcome = "same direction" if self.agrees else "OPPOSITE DIRECTION"
        if math.isnan(self.repeated):
            outcome = "TOO LITTLE DATA"
        return f"{outcome}: {self.name}: {number(self.recorded)} in the record, {number(self.repeated)} again"


def check_study(
    study: str | Study, record: Document, *, output: str | Path | None = None, execution: Execution | None = None
) -> tuple[Direction, ...]:
    """Train a study at reduced size and compare its directions with those of the record.

    Three seeds that the study did not use are trained, with half the steps; of losses and task weightings only the
    first and those with a recorded difference. A study of lengths by step keeps its steps. The directions are those of
    the verdicts "different", and of lengths by step whose interval excludes 1 at the first or the last step.

    Args:
        study: The study, or the name of one that trains from scratch.
        record: Its committed result.
        output: Folder of the trainings, as in :func:`sftloss.experiments.compare`. None: nothing is kept.
        execution: Devices, processes, progress.

    Returns:
        A direction for each recorded difference; none where the record shows no difference, and nothing is trained.

    Raises:
        ConfigError: If there is no such study.
        DataError: If the record is of another study.

    Example:
        >>> check_study("length", from_json(Path("studies/length.json").read_text()))   # doctest: +SKIP
    """
    recorded = _directions(record)
    if not recorded:
        return ()
    study = study_named(study) if isinstance(study, str) else study
    experiment = study.experiment
    unknown = {arm for _, arm in recorded} - {*arm_labels(experiment.arms())}
    if unknown:
        raise DataError(f"the record is about {min(unknown)}, which is no arm of the study {study.name}")
    experiment = reduced(experiment, {arm for _, arm in recorded}, record)
    with tempfile.TemporaryDirectory(prefix="sftloss-") as temporary:
        repeated = _values(compare(experiment, output=output or temporary, execution=execution).document)
    missing = [f"{measure}: {arm}" for measure, arm in recorded if (measure, arm) not in repeated]
    if missing:
        problem = f"the record has {missing[0]}, which the study {study.name} does not measure"
        raise DataError(problem, cure="make it anew")
    return tuple(Direction(": ".join(key), value, _known(repeated[key])) for key, value in recorded.items())


def reduced(experiment: Experiment, named: Iterable[str], record: Document) -> Experiment:
    """The experiment with other seeds and half the steps; of losses and task weightings the first and those named."""
    arms, recipe, names = experiment.arms(), experiment.recipe, {*named}
    kept = [arm for arm, name in zip(arms, arm_labels(arms), strict=True) if arm == arms[0] or name in names]
    rates = {float(row["rate"]) for row in table_rows(record, "learning-rates")}
    if len(rates) == 1:  # the outcome of the choice: nothing is tried again
        recipe, rates = replace(recipe, learning_rate=rates.pop()), set()
    if not experiment.length_rows and recipe.max_steps is not None:
        recipe = replace(recipe, max_steps=recipe.max_steps // 2)
    first = max(experiment.seeds) + 1
    return replace(
        experiment,
        recipe=recipe,
        losses=tuple(dict.fromkeys(arm.loss for arm in kept)),
        tasks=tuple(dict.fromkeys(arm.tasks or UNWEIGHTED for arm in kept)) if experiment.tasks else (),
        seeds=tuple(range(first, first + _SEEDS)),
        samples=min(experiment.samples, 2),
        learning_rates=tuple(sorted(rates)),
    )


def _directions(record: Document) -> dict[tuple[str, str], float]:
    """The recorded differences by measure and arm."""
    different = {
        (row["measure"], row["arm"]) for row in table_rows(record, "comparisons") if row["verdict"] == DIFFERENT
    }
    steps = table_rows(record, STEPS)
    ends = {row["step"] for row in (*steps[:1], *steps[-1:])}
    for row in (row for row in steps if row["step"] in ends):
        for kind, value, low, high in _kinds(row):
            if value is not None and low is not None and high is not None and not low <= 1.0 <= high:
                different.add((_length_name(row, kind), row["arm"]))
    values = _values(record)
    return {key: _known(values[key]) for key in values if key in different}


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _values(document: Document) -> dict[tuple[str, str], float | None]:
    """Every difference from the first arm, and every relative length minus 1, by measure and arm."""
    values = {(row["measure"], row["arm"]): row["difference"] for row in table_rows(document, "comparisons")}
    for row in table_rows(document, STEPS):
        values |= {(_length_name(row, kind), row["arm"]): value - 1.0
                   for kind, value, *_ in _kinds(row) if value is not None}  # fmt: skip
    return values


def _kinds(row: dict[str, object]) -> list[tuple[str, float | None, float | None, float | None]]:
    kinds = [key.removesuffix("_low") for key in row if key.endswith("_low")]
    return [(kind, row[kind], row[f"{kind}_low"], row[f"{kind}_high"]) for kind in kinds]  # type: ignore[misc]


def _length_name(row: dict[str, object], kind: str) -> str:
    task = str(row["title"]).partition(":")[0]
    return f"length in {task}, {kind.replace('-', ' ')}, step {row['step']}"
