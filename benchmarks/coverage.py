"""How often 95 % intervals cover the truth, by simulation: the tables of `docs/intervals.md`.

    python -m benchmarks.coverage --json benchmarks/results/coverage.json    # three minutes on one core

Each simulated data set has prompts with 20 answers each. In the first table the mean length of a prompt is lognormal or
Pareto, and its answers vary around it. In the second it is one of a few lengths. The intervals come from the functions
that make the intervals of the reports.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import provenance, write_json
from sftloss.numbers import Estimate, GroupSums, by_unit, elasticity, ratio_estimates

ANSWERS = 20
PROMPTS = (5, 10, 20, 29, 200)
KINDS = ("lognormal 0.5", "lognormal 1", "Pareto 3")
"""Distributions of the prompts' mean lengths, with the standard deviation of the logarithm or the tail index."""
_ELASTICITY, _MEMBERS = 0.5, 0.4


class Discrete(NamedTuple):
    """Lengths of prompts and how often each occurs, up to a factor, and by what answers vary around them."""

    lengths: tuple[int, ...]
    weights: tuple[float, ...]
    spread: float = 0.0


DISCRETE = {
    "about 20 tokens, one prompt in ten about 400": Discrete((20, 400), (0.9, 0.1), spread=0.4),
    "Zipf 1.3, at most 512": Discrete(tuple(range(1, 513)), tuple(length**-1.3 for length in range(1, 513))),
    "5 or 10 tokens": Discrete((5, 10), (0.5, 0.5)),
    "10 tokens": Discrete((10,), (1.0,)),
}


@dataclass(frozen=True)
class Coverage:
    """Share of the intervals that contain the true value, and the number of intervals."""

    covered: float
    intervals: int


def coverage(kind: str, prompts: int, *, trials: int = 400) -> dict[str, Coverage]:
    """Coverage of the mean length, of the elasticity of a signal in length, and of a group's share."""
    random = np.random.default_rng([prompts, KINDS.index(kind)])
    hits: dict[str, list[bool]] = {"mean length": [], "elasticity": [], "share of a group": []}
    for trial in range(trials):
        for name, estimate, truth in _estimates(kind, prompts, random, trial):
            if estimate.interval is not None:
                hits[name].append(estimate.interval.low <= truth <= estimate.interval.high)
    return {name: Coverage(float(np.mean(ours)) if ours else float("nan"), len(ours)) for name, ours in hits.items()}


def coverage_of_discrete(kind: str, prompts: int, *, trials: int = 400) -> dict[str, Coverage]:
    """Coverage of the mean length where prompts have one of a few lengths."""
    random = np.random.default_rng([prompts, 100 + list(DISCRETE).index(kind)])
    values, weights, spread = DISCRETE[kind]
    probabilities = np.array(weights) / sum(weights)
    hits: list[bool] = []
    for trial in range(trials):
        lengths = random.choice(values, (prompts, 1), p=probabilities) * _spread(spread, (prompts, ANSWERS), random)
        interval = _mean_length(lengths, trial).interval
        if interval is not None:
            hits.append(bool(interval.low <= values @ probabilities <= interval.high))
    return {"mean length": Coverage(float(np.mean(hits)) if hits else float("nan"), len(hits))}


def draw(kind: str, shape: tuple[int, ...], random: np.random.Generator) -> tuple[NDArray[np.float64], float]:
    """Positive values of a distribution, and its mean."""
    name, _, parameter = kind.partition(" ")
    size = float(parameter)
    if name == "lognormal":
        return np.exp(size * random.normal(size=shape)), float(np.exp(size**2 / 2))
    return 1.0 + random.pareto(size, size=shape), size / (size - 1.0)


def _estimates(
    kind: str, prompts: int, random: np.random.Generator, seed: int
) -> Iterator[tuple[str, Estimate, float]]:
    """Each estimate with its name and the true value."""
    shape = (prompts, ANSWERS)
    means, truth = draw(kind, (prompts, 1), random)
    lengths = 10.0 * means * _spread(0.4, shape, random)
    units = np.repeat(np.arange(prompts), ANSWERS)
    yield "mean length", _mean_length(lengths, seed), 10.0 * truth
    noise = np.exp(0.5 * random.normal(size=(prompts, 1)) + 0.3 * random.normal(size=shape))
    signal = lengths**_ELASTICITY * noise
    yield "elasticity", elasticity(lengths.ravel(), signal.ravel(), units, seed=seed), _ELASTICITY
    group = np.repeat(random.random(prompts) < _MEMBERS, ANSWERS).astype(np.int64)
    shares = GroupSums(2, 1, seed=seed).add(units, lengths.reshape(-1, 1), group).shares()
    yield "share of a group", shares[1][0], _MEMBERS


def _spread(size: float, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float64]:
    """Lognormal factors with mean 1; `size` is the standard deviation of their logarithm."""
    return np.exp(size * random.normal(size=shape) - size**2 / 2)


def _mean_length(lengths: NDArray[np.float64], seed: int) -> Estimate:
    """The mean length of answers (prompts, answers), with its interval."""
    units = np.repeat(np.arange(len(lengths)), lengths.shape[1])
    names, sums = by_unit(units, np.stack([lengths.ravel(), np.ones(lengths.size)], axis=1))
    return ratio_estimates(sums[:, :1], sums[:, 1:], names, seed=seed)[0]


def table(rows: Mapping[str, Mapping[str, Coverage]], trials: int) -> str:
    """A Markdown table of the coverage. Each cell also gives the share of trials with an interval, if below 100 %."""
    columns = tuple(next(iter(rows.values())))
    lines = [f"| | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    for name, cells in rows.items():
        texts = (_cell(cells[column], trials) for column in columns)
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _cell(one: Coverage, trials: int) -> str:
    if one.intervals < trials // 10:
        return "no interval"
    text = f"{100 * one.covered:.1f} %"
    return text if one.intervals == trials else f"{text} (of {100 * one.intervals / trials:.0f} % with an interval)"


def main() -> None:
    """Simulate every row and print the table."""
    parser = argparse.ArgumentParser(description="How often 95 % intervals cover the truth, by simulation.")
    parser.add_argument("--trials", type=int, default=600, help="data sets a row")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    origin, cells = provenance("coverage"), {}
    simulations = {"coverage": (KINDS, coverage), "coverage of discrete lengths": (DISCRETE, coverage_of_discrete)}
    for name, (kinds, simulate) in simulations.items():
        rows = {}
        for kind in kinds:
            for prompts in PROMPTS:
                rows[f"{kind}, {prompts} prompts"] = simulate(kind, prompts, trials=args.trials)
                print(f"{kind}, {prompts} prompts", file=sys.stderr)
        print(f"{table(rows, args.trials)}\n")
        cells[name] = {
            row: {
                column: {**asdict(one), "with an interval": one.intervals / args.trials}
                for column, one in columns.items()
                if one.intervals
            }
            for row, columns in rows.items()
        }
    print(f"Made at commit {origin['commit']}, {args.trials} data sets a row.")
    write_json(args.json, {**origin, "trials": args.trials, **cells})


if __name__ == "__main__":
    main()
