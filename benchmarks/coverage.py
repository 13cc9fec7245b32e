"""How often 95 % intervals cover the truth, by simulation: the table of `docs/intervals.md`.

    python -m benchmarks.coverage --json benchmarks/results/coverage.json    # about six minutes on one core

Each simulated data set has prompts with 20 answers each. The mean length of a prompt is lognormal or Pareto, and its
answers vary around it. The intervals come from the functions that make the intervals of the reports.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import provenance, write_json
from sftloss.numbers import Estimate, GroupSums, by_unit, elasticity, ratio_estimates

ANSWERS = 20
PROMPTS = (5, 10, 20, 29, 200)
KINDS = ("lognormal 0.5", "lognormal 1", "Pareto 3")
"""Distributions of the prompts' mean lengths, with the standard deviation of the logarithm or the tail index."""
_ELASTICITY, _MEMBERS = 0.5, 0.4


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
    lengths = 10.0 * means * np.exp(0.4 * random.normal(size=shape) - 0.08)
    units = np.repeat(np.arange(prompts), ANSWERS)
    names, sums = by_unit(units, np.stack([lengths.ravel(), np.ones(lengths.size)], axis=1))
    yield "mean length", ratio_estimates(sums[:, :1], sums[:, 1:], names, seed=seed)[0], 10.0 * truth
    noise = np.exp(0.5 * random.normal(size=(prompts, 1)) + 0.3 * random.normal(size=shape))
    signal = lengths**_ELASTICITY * noise
    yield "elasticity", elasticity(lengths.ravel(), signal.ravel(), units, seed=seed), _ELASTICITY
    group = np.repeat(random.random(prompts) < _MEMBERS, ANSWERS).astype(np.int64)
    shares = GroupSums(2, 1, seed=seed).add(units, lengths.reshape(-1, 1), group).shares()
    yield "share of a group", shares[1][0], _MEMBERS


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
    origin, rows = provenance("coverage"), {}
    for kind in KINDS:
        for prompts in PROMPTS:
            rows[f"{kind}, {prompts} prompts"] = coverage(kind, prompts, trials=args.trials)
            print(f"{kind}, {prompts} prompts", file=sys.stderr)
    print(f"{table(rows, args.trials)}\n\nMade at commit {origin['commit']}, {args.trials} data sets a row.")
    cells = {
        row: {name: asdict(one) for name, one in columns.items() if one.intervals} for row, columns in rows.items()
    }
    write_json(args.json, {**origin, "trials": args.trials, "coverage": cells})


if __name__ == "__main__":
    main()
