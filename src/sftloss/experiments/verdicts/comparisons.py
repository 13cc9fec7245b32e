"""Which differences between arms the data supports, all comparisons taken together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from sftloss.analysis.lengths.forecast import LengthRange
from sftloss.document import Interval
from sftloss.experiments.experiment import Arm, Trial, arm_labels
from sftloss.experiments.metrics import Gap, Mean, Ratio, crossed_mean, linearised, paired_difference
from sftloss.experiments.run.results import ArmResult
from sftloss.numbers import Floats, t_quantile
from sftloss.words import number

_LEVEL = 0.95
ENOUGH_SEEDS = 5
"""Seeds from which a clear difference is found even where seeds vary more than examples."""
LEAST_TILT = 0.005
"""A smaller predicted change of a mean length is taken for none: it would print as 1.00."""
_RARE = ("exact_match",)  # of most examples the difference is 0, of few it is 1
_LARGEST = {"brier": 2.0, "length_ks": 1.0, "eos_ece": math.inf}  # the last is per end, not per token


def least_seeds(arms: int) -> int:
    """Fewest seeds for a verdict among so many arms.

    A training may work or fail. If each does with probability 1/2, whatever the arm, then the first arm fails with all
    S seeds and another works with all of them, or the reverse, with probability :math:`2^{1-S}(1 - (1 - 2^{-S})^k)`,
    k the other arms. No interval can show this, because the seeds of each arm agree. It must be at most 5 %.

    Example:
        >>> [least_seeds(arms) for arms in (2, 4, 12, 100)]
        [3, 4, 5, 6]
    """
    seeds = 3  # two may always agree by chance
    while 2.0 ** (1 - seeds) * (1.0 - (1.0 - 2.0**-seeds) ** (arms - 1)) > 1.0 - _LEVEL:
        seeds += 1
    return seeds


def largest_value(key: str, kind: str) -> float:
    """The largest value of a metric, which is also the largest difference: a share is at most 1."""
    return _LARGEST.get(key, 1.0 if kind == "percent" else math.inf)


def clipped(interval: Interval, low: float, high: float) -> Interval:
    """The part of an interval within these bounds."""
    return replace(interval, low=max(interval.low, low), high=min(interval.high, high))


@dataclass(frozen=True)
class Measure:
    """A metric that verdicts are about.

    Attributes:
        key: Name of the metric in :class:`ArmResult`.
        name: Its name in sentences.
        better: The better direction; empty where neither is.
        kind: Kind of number, as in :class:`sftloss.document.Column`.
        task: Of this task's examples alone; empty for all.
        among: Of the examples of these tasks; empty for all.
    """

    key: str
    name: str
    better: Literal["higher", "lower", ""]
    kind: Literal["number", "percent", "nats", "ratio"] = "number"
    task: str = ""
    among: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """A name that no other measure has."""
        return f"{self.key}-{self.task}" if self.task else self.key

    @property
    def unit(self) -> str:
        """Unit of a difference: percentage points for shares, empty for ratios and plain numbers."""
        return {"percent": "percentage points", "nats": "nats"}.get(self.kind, "")

    @property
    def scale(self) -> float:
        """What a difference is multiplied with to be in this unit."""
        return 100.0 if self.kind == "percent" else 1.0

    def words(self, difference: float) -> str:
        """A difference with its unit, a minus sign where it is below zero."""
        return f"{number(self.scale * difference)} {self.unit}".strip()

    def signed(self, difference: float) -> str:
        """A difference with its sign and unit."""
        return ("+" if difference > 0 else "") + self.words(difference)

    def chosen(self, tasks: np.ndarray) -> np.ndarray | None:
        """Which examples it is about, given the task of each; None for all."""
        among = self.among or ((self.task,) if self.task else ())
        return np.isin(tasks, among) if among else None


HEADLINE = (
    Measure("token_nll", "held-out loss per token", "lower", "nats"),
    Measure("example_nll", "held-out loss per example (mean of token means)", "lower", "nats"),
    Measure("exact_match", "right answers", "higher", "percent"),
    Measure("length_ratio", "answer length (generated over reference)", "", "ratio"),
    Measure("brier", "token Brier score", "lower"),
    Measure("forget_kl", "drift on the second data file (KL from the start)", "lower", "nats"),
)


ALSO_JUDGED = {
    "distinct_2": Measure("distinct_2", "different word pairs over the samples of a prompt", "higher", "percent"),
    "pass_at_8": Measure("pass_at_8", "prompts with a right answer among 8 samples", "higher", "percent"),
}
"""Measures that an experiment may add to these (``also_judged``)."""


@dataclass(frozen=True)
class Comparison:
    """One arm against the first arm on one measure.

    Attributes:
        measure, arm: The measure and the arm.
        difference: Arm minus first arm, over seeds and examples.
        level: Level of the simultaneous interval: 1 - 0.05 / number of comparisons.
        seeds_needed: Fewest seeds for a verdict.
        prompts: Different prompts of the examples that have a value.
    """

    measure: Measure
    arm: Arm
    difference: Mean
    level: float
    seeds_needed: int
    prompts: int = 0

    @property
    def bounds(self) -> Interval | None:
        """The simultaneous interval, within the range of the measure; None where there is too little data."""
        interval, end = self.difference.interval(self.level), largest_value(self.measure.key, self.measure.kind)
        return None if interval is None else clipped(interval, -end, end)

    @property
    def in_unit(self) -> tuple[float, float | None, float | None]:
        """The difference and the ends of its simultaneous interval, in the unit of the measure."""
        scale, bounds = self.measure.scale, self.bounds
        ends = (None, None) if bounds is None else (scale * bounds.low, scale * bounds.high)
        return scale * self.difference.value, *ends

    @property
    def detectable(self) -> float | None:
        """The smallest true difference that 4 of 5 such experiments find; None where none in range would be found."""
        least = self.difference.detectable(self.level)
        return least if least < largest_value(self.measure.key, self.measure.kind) else None

    @property
    def is_judged(self) -> bool:
        """Whether there are enough seeds and an interval for a verdict."""
        return self.difference.seeds >= self.seeds_needed and self.bounds is not None

    @property
    def is_different(self) -> bool:
        """Whether the verdict is a difference: the simultaneous interval excludes zero."""
        bounds = self.bounds
        return self.is_judged and bounds is not None and not bounds.low <= 0 <= bounds.high

    @property
    def errors_needed(self) -> float:
        """Standard errors that a difference must reach where only seeds vary."""
        return t_quantile(self.level, self.difference.seeds - 1)


@dataclass(frozen=True)
class Results:
    """All finished trainings of an experiment, seeds in the same order for each arm."""

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    by_trial: Mapping[Trial, ArmResult]

    @cached_property
    def names(self) -> Mapping[Arm, str]:
        """Name of each arm in sentences and tables."""
        return dict(zip(self.arms, arm_labels(self.arms), strict=True))

    @property
    def reference(self) -> str:
        """Name of the first arm, which the others are compared with."""
        return self.names[self.arms[0]]

    def of(self, arm: Arm) -> tuple[ArmResult, ...]:
        """Results of one arm, by seed."""
        return tuple(self.by_trial[Trial(arm, seed)] for seed in self.seeds)

    @property
    def first(self) -> ArmResult:
        """The first arm's result with the first seed."""
        return self.by_trial[Trial(self.arms[0], self.seeds[0])]

    @property
    def tasks(self) -> np.ndarray:
        """Task of each held-out example, ``(examples,)``."""
        return np.asarray(self.first.groups.task)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of all tasks, sorted."""
        return tuple(sorted({*self.first.groups.task} - {""}))

    def ratios(self, arm: Arm, key: str) -> tuple[Ratio, ...] | None:
        """The metric of each seed, where it is a ratio of sums over examples."""
        metrics = [{**r.metrics, **r.forgetting}.get(key) for r in self.of(arm)]
        ratios = tuple(metric for metric in metrics if isinstance(metric, Ratio))
        return ratios if len(ratios) == len(metrics) else None

    def mean(self, arm: Arm, key: str, chosen: np.ndarray | None = None) -> Mean | None:
        """The metric of an arm over seeds and (some) examples."""
        table = self._table(arm, key, chosen)
        return None if table is None else crossed_mean(table, float(key in _RARE))

    def difference(self, arm: Arm, key: str, chosen: np.ndarray | None = None) -> Mean | None:
        """The metric of an arm minus the first arm's, paired by seed and example."""
        ours, firsts = self._gaps(arm, key), self._gaps(self.arms[0], key)
        if chosen is None and ours and firsts:
            return paired_difference(ours, firsts, self._groups(ours[0].examples))
        mine, theirs = self._table(arm, key, chosen), self._table(self.arms[0], key, chosen)
        return None if mine is None or theirs is None else crossed_mean(mine - theirs, float(key in _RARE))

    def prompts(self, key: str, chosen: np.ndarray | None = None) -> int:
        """Different prompts among (some of) the examples that have a value of this metric."""
        metric = {**self.first.metrics, **self.first.forgetting}[key]
        has_value = (metric.bottom if isinstance(metric, Ratio) else metric.size) > 0
        groups = self._groups(metric.examples)
        codes = np.arange(metric.examples) if groups is None else groups
        return len(np.unique(codes[has_value if chosen is None else has_value & chosen]))

    def relative(self, arm: Arm, key: str, chosen: np.ndarray | None = None) -> Mean | None:
        """The arm's sum as a multiple of the first arm's, over the same examples and seeds."""
        ours, firsts = self.ratios(arm, key), self.ratios(self.arms[0], key)
        if ours is None or firsts is None:
            return None
        table = self._linearised(np.stack([r.top for r in ours]), np.stack([r.top for r in firsts]), chosen)
        return None if table is None else crossed_mean(table)

    def predicted_length(self, arm: Arm, task: str = "", *, is_bound: bool = False) -> float | None:
        """Predicted mean answer length over the first arm's; None for other losses than cross-entropy.

        Given the prompt, or the bound where the prompt does not determine length.
        """
        first = self.arms[0]
        if {arm.loss, first.loss} != {"cross_entropy"}:
            return None
        ours, firsts = (_tilt(self.of(one)[0].forecasts.get(task), is_bound=is_bound) for one in (arm, first))
        return ours / firsts if ours is not None and firsts else None

    def tilted_tasks(self) -> tuple[str, ...]:
        """Tasks whose mean length some arm's normalization changes; empty where that is all or no task."""
        if len({arm.normalization for arm in self.arms}) < 2:
            return ()
        forecasts = [self.of(arm)[0].forecasts for arm in self.arms]
        tilted = tuple(
            task for task in self.task_names
            if any(abs((_tilt(one.get(task)) or 1.0) - 1.0) >= LEAST_TILT for one in forecasts)
        )  # fmt: skip
        return tilted if len(tilted) < len(self.task_names) else ()

    def _gaps(self, arm: Arm, key: str) -> tuple[Gap, ...]:
        metrics = (r.metrics.get(key) for r in self.of(arm))
        return tuple(metric for metric in metrics if isinstance(metric, Gap))

    def _table(self, arm: Arm, key: str, chosen: np.ndarray | None) -> Floats | None:
        ratios = self.ratios(arm, key)
        if ratios is None:
            return None
        return self._linearised(np.stack([r.top for r in ratios]), np.stack([r.bottom for r in ratios]), chosen)

    def _linearised(self, top: Floats, bottom: Floats, chosen: np.ndarray | None) -> Floats | None:
        groups = self._groups(top.shape[1])
        if chosen is not None:
            top, bottom, groups = top[:, chosen], bottom[:, chosen], None if groups is None else groups[chosen]
        return linearised(top, bottom, groups) if (bottom.sum(axis=1) > 0).all() else None

    def _groups(self, count: int) -> np.ndarray | None:
        prompts = np.asarray(self.first.groups.prompt)
        return prompts if len(prompts) == count else None  # the second data file has other rows


def _tilt(forecast: LengthRange | None, *, is_bound: bool = False) -> float | None:
    """Predicted mean length over the training data's."""
    if forecast is None or not forecast.data > 0:
        return None
    return (forecast.whole if is_bound else forecast.within_prompt) / forecast.data


def measures_of(results: Results) -> tuple[Measure, ...]:
    """The measures that verdicts are about.

    Where arms weight tasks differently: the loss of each task, for one task may gain what another loses, and few other
    measures, because all share one error rate. Where arms normalize differently: length only in the tasks whose length
    the normalization can change, because the other tasks add nothing but noise.
    """
    if len({arm.tasks for arm in results.arms}) < 2:
        tilted = results.tilted_tasks()
        return tuple(_among(one, tilted) if one.key == "length_ratio" and tilted else one for one in HEADLINE)
    by_task = (
        Measure("token_nll", f"held-out loss per token of {task}", "lower", "nats", task) for task in results.task_names
    )
    return (*(one for one in HEADLINE if one.key in ("token_nll", "exact_match")), *by_task)


def _among(measure: Measure, tasks: tuple[str, ...]) -> Measure:
    where = f"task{'s' if len(tasks) > 1 else ''} {', '.join(tasks)}"
    return replace(measure, name=f"{measure.name.removesuffix(')')}; {where})", among=tasks)


def comparisons(results: Results, measures: Sequence[Measure] | None = None) -> tuple[Comparison, ...]:
    """Compare every arm with the first on every measure that the data has, at one family-wise level.

    The level is Bonferroni's: whatever the dependence, all intervals hold together with the stated confidence. Without
    measures they are those of :func:`measures_of`.
    """
    differences = [
        (measure, arm, difference)
        for measure in (measures_of(results) if measures is None else measures)
        for arm in results.arms[1:]
        if (difference := results.difference(arm, measure.key, measure.chosen(results.tasks))) is not None
    ]
    level = 1.0 - (1.0 - _LEVEL) / max(1, len(differences))
    needed = least_seeds(len(results.arms))
    return tuple(
        Comparison(measure, arm, difference, level, needed, results.prompts(measure.key, measure.chosen(results.tasks)))
        for measure, arm, difference in differences
    )
