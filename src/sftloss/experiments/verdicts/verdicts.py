"""Which differences the data supports, all comparisons taken together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sftloss.analysis.lengths.forecast import TaskForecast
from sftloss.document import Interval
from sftloss.experiments.experiment import Arm, Trial
from sftloss.experiments.metrics import Gap, Ratio, paired_difference
from sftloss.experiments.metrics.differences import Floats, Mean, crossed_mean, linearised
from sftloss.experiments.run.results import ArmResult
from sftloss.numbers import t_quantile

LEVEL = 0.95
SEEDS = 3
"""Fewest seeds for a verdict: that two agree may always be chance."""
ENOUGH = 5
"""Seeds from which a clear difference is found even where seeds are what varies."""
_MOST = {"brier": 2.0, "length_ks": 1.0, "eos_ece": math.inf}  # the last is for each end, not each token
SHIFT = 0.005  # of a mean length: a smaller tilt would print as 1.00


def most(key: str, kind: str) -> float:
    """The largest value of a metric, which is also the largest difference: shares end at 1."""
    return _MOST.get(key, 1.0 if kind == "percent" else math.inf)


def tilt(forecast: TaskForecast | None, *, is_bound: bool = False) -> float | None:
    """Predicted mean length over the training data's, given the prompt or as the bound."""
    if forecast is None or not forecast.data > 0:
        return None
    return (forecast.whole if is_bound else forecast.within_prompt) / forecast.data


def clipped(interval: Interval, low: float, high: float) -> Interval:
    """What of an interval there can be."""
    return replace(interval, low=max(interval.low, low), high=min(interval.high, high))


@dataclass(frozen=True)
class Measure:
    """A metric that verdicts are about.

    Attributes:
        key: Its name in :class:`ArmResult`.
        name: As sentences call it.
        better: The direction that is better, or neither.
        unit: Of a difference, as sentences say it.
        kind: As :class:`sftloss.document.Column` has it.
        task: Of this task's examples alone; empty for all.
        among: Of the examples of these tasks; empty for all.
    """

    key: str
    name: str
    better: Literal["higher", "lower", ""]
    unit: str = ""
    kind: Literal["number", "percent", "nats", "ratio"] = "number"
    task: str = ""
    among: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """A name that no other measure has."""
        return f"{self.key}-{self.task}" if self.task else self.key


HEADLINE = (
    Measure("token_nll", "held-out loss per token", "lower", "nats", "nats"),
    Measure("example_nll", "held-out loss per example (mean of token means)", "lower", "nats", "nats"),
    Measure("exact_match", "right answers", "higher", "", "percent"),
    Measure("length_ratio", "answer length (generated over reference)", "", "", "ratio"),
    Measure("brier", "token Brier score", "lower"),
    Measure("forget_kl", "drift on the second data file (KL from the start)", "lower", "nats", "nats"),
)


def measures_of(results: Results) -> tuple[Measure, ...]:
    """What verdicts are about: where arms weight tasks differently, the loss of each task, for one pays for another;
    few other measures then, because all share one family. Where they normalize differently, lengths are judged where
    the normalization can change them: in the other tasks the answers only add noise."""
    if len({arm.tasks for arm in results.arms}) < 2:
        tilted = _tilted(results)
        return tuple(_where(one, tilted) if one.key == "length_ratio" and tilted else one for one in HEADLINE)
    by_task = (
        Measure("token_nll", f"held-out loss per token of {task}", "lower", "nats", "nats", task)
        for task in sorted(set(results.first.groups.task) - {""})
    )
    return (*(one for one in HEADLINE if one.key in ("token_nll", "exact_match")), *by_task)


def _tilted(results: Results) -> tuple[str, ...]:
    """Tasks whose mean length some arm's normalization moves, given the prompt; none where that is all or no task."""
    if len({arm.normalization for arm in results.arms}) < 2:
        return ()
    tasks = sorted(set(results.first.groups.task) - {""})
    told = [results.of(arm)[0].forecasts for arm in results.arms]
    moved = tuple(task for task in tasks if any(abs((tilt(one.get(task)) or 1.0) - 1.0) >= SHIFT for one in told))
    return moved if len(moved) < len(tasks) else ()


def _where(measure: Measure, tasks: tuple[str, ...]) -> Measure:
    where = f"{measure.name.removesuffix(')')}; tasks {', '.join(tasks)})"
    return replace(measure, name=where if len(tasks) > 1 else where.replace("; tasks ", "; task "), among=tasks)


@dataclass(frozen=True)
class Comparison:
    """One arm against the first, on one measure.

    Attributes:
        measure, arm: Of what, and which.
        difference: Arm minus reference, over seeds and examples.
        level: Of the simultaneous interval: 1 - 0.05 / number of comparisons.
    """

    measure: Measure
    arm: Arm
    difference: Mean
    level: float

    @property
    def bounds(self) -> Interval | None:
        """The simultaneous interval, as far as the measure reaches; None where there is too little data."""
        found, end = self.difference.interval(self.level), most(self.measure.key, self.measure.kind)
        return None if found is None else clipped(found, -end, end)

    @property
    def detectable(self) -> float | None:
        """The smallest true difference found in 4 of 5 such experiments; None where no possible one would be."""
        least = self.difference.detectable(self.level)
        return least if least < most(self.measure.key, self.measure.kind) else None

    @property
    def is_different(self) -> bool:
        """Whether the simultaneous interval excludes zero and there are seeds enough to believe it."""
        bounds = self.bounds
        return self.difference.seeds >= SEEDS and bounds is not None and not bounds.low <= 0 <= bounds.high

    @property
    def errors_needed(self) -> float:
        """Standard errors that a difference must reach where seeds are all that varies."""
        return t_quantile(self.level, self.difference.seeds - 1)

    @property
    def is_settled(self) -> bool:
        """Whether there is an interval at all."""
        return self.difference.seeds >= SEEDS and self.difference.interval(self.level) is not None


@dataclass(frozen=True)
class Results:
    """All finished arms of a comparison, seeds in the same order for each."""

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    by_trial: Mapping[Trial, ArmResult]

    def of(self, arm: Arm) -> tuple[ArmResult, ...]:
        return tuple(self.by_trial[Trial(arm, seed)] for seed in self.seeds)

    @property
    def first(self) -> ArmResult:
        return self.by_trial[Trial(self.arms[0], self.seeds[0])]

    def ratios(self, arm: Arm, key: str) -> tuple[Ratio, ...] | None:
        """The metric of each seed, where it is a ratio of sums over examples."""
        found = [{**r.metrics, **r.forgetting}.get(key) for r in self.of(arm)]
        return tuple(found) if all(isinstance(m, Ratio) for m in found) else None  # type: ignore[arg-type]

    def mean(self, arm: Arm, key: str, chosen: np.ndarray | None = None) -> Mean | None:
        """The metric of an arm over seeds and examples, of some of the examples where asked."""
        table = self._table(arm, key, chosen)
        return None if table is None else crossed_mean(table)

    def difference(self, arm: Arm, key: str, chosen: np.ndarray | None = None) -> Mean | None:
        """The same for arm minus the first arm, paired by seed and example; by resampling where it is no mean."""
        ours, firsts = self._gaps(arm, key), self._gaps(self.arms[0], key)
        if chosen is None and ours and firsts:
            return paired_difference(ours, firsts, self._groups(ours[0].examples))
        mine, theirs = self._table(arm, key, chosen), self._table(self.arms[0], key, chosen)
        return None if mine is None or theirs is None else crossed_mean(mine - theirs)

    def relative(self, arm: Arm, key: str, chosen: np.ndarray | None = None) -> Mean | None:
        """The arm's sum as a multiple of the first arm's, over the same examples under the same seeds."""
        ours, firsts = self.ratios(arm, key), self.ratios(self.arms[0], key)
        if ours is None or firsts is None:
            return None
        table = self._linearised(np.stack([r.top for r in ours]), np.stack([r.top for r in firsts]), chosen)
        return None if table is None else crossed_mean(table)

    def _gaps(self, arm: Arm, key: str) -> tuple[Gap, ...]:
        found = (r.metrics.get(key) for r in self.of(arm))
        return tuple(metric for metric in found if isinstance(metric, Gap))

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
        return prompts if len(prompts) == count else None  # the second file has rows of its own


def comparisons(results: Results, measures: Sequence[Measure] | None = None) -> tuple[Comparison, ...]:
    """Every arm against the first on every measure that the data has, with one family-wise level.

    Bonferroni's: whatever the dependence, the intervals hold all together with the stated confidence, and a verdict
    is nothing but an interval that excludes zero. Without measures they are those of :func:`measures_of`.
    """
    tasks = np.asarray(results.first.groups.task)

    def chosen(measure: Measure) -> np.ndarray | None:
        among = measure.among or ((measure.task,) if measure.task else ())
        return np.isin(tasks, among) if among else None

    found = [
        (measure, arm, difference)
        for measure in (measures_of(results) if measures is None else measures)
        for arm in results.arms[1:]
        if (difference := results.difference(arm, measure.key, chosen(measure))) is not None
    ]
    level = 1.0 - (1.0 - LEVEL) / max(1, len(found))
    return tuple(Comparison(measure, arm, difference, level) for measure, arm, difference in found)
