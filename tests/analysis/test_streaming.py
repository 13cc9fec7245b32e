"""Describing a table: the same bytes however it was cut into parts, in memory that does not follow the tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.analysis.tables import MemoryTable, make_table, random_examples
from tests.paths import ROOT

from sftloss.analysis import AnalysisOptions, describe_signal
from sftloss.analysis.signal.frames import open_study
from sftloss.analysis.signal.token_groups import token_sums
from sftloss.numbers import by_unit, ratio_estimates, resampling_units
from sftloss.numbers.bootstrap import UNITS, snap


class CutTable(MemoryTable):
    """The same table in pieces of a few examples, the pieces in any order, as several ranks leave it."""

    pieces = 1

    def chunks(self, columns):
        ids = self.example_frame.select("example").collect()["example"].to_numpy()
        for part in np.array_split(np.random.default_rng(self.pieces).permutation(ids), self.pieces):
            mine = self.token_frame.filter(pl.col("example").is_in(part.tolist()))
            yield mine.select(columns).sort("example", "position").collect()


def cut(table: MemoryTable, pieces: int) -> CutTable:
    one = CutTable(table.token_frame, table.example_frame)
    object.__setattr__(one, "pieces", pieces)
    return one


@pytest.mark.parametrize("pieces", [1, 2, 7, 60])
def test_a_description_does_not_depend_on_the_parts(pieces: int) -> None:
    table = make_table(random_examples(120), objectives=("cross_entropy", "focal(gamma=2.0)"))
    options = AnalysisOptions(replicates=100, micro_batch=4)
    assert describe_signal(cut(table, pieces), options) == describe_signal(table, options)


def test_units_of_many_examples_are_summed_exactly_whatever_the_parts() -> None:
    """Above 4096 examples tokens of many examples meet in one sum, in the order of the parts."""
    rng = np.random.default_rng(0)
    table = make_table([{"p": rng.uniform(0.01, 0.99, 2), "task": "ab"[i % 2]} for i in range(UNITS + 50)])
    options = AnalysisOptions(replicates=40)
    names = ["tokens", "loss", "signal cross_entropy, token mean", "signal cross_entropy, example mean"]
    whole, parts = (token_sums(open_study(t, options), "band", names) for t in (table, cut(table, 5)))
    np.testing.assert_array_equal(whole.total, parts.total)
    np.testing.assert_array_equal(whole.replicates, parts.replicates)


def test_snapped_sums_are_exact_in_any_order() -> None:
    rng = np.random.default_rng(0)
    values = rng.lognormal(0, 4, 5000)
    snapped = snap(values, float(values.sum()))
    sums = {float(np.add.accumulate(snapped[rng.permutation(5000)])[-1]) for _ in range(20)}
    assert len(sums) == 1
    assert len({float(np.add.accumulate(values[rng.permutation(5000)])[-1]) for _ in range(20)}) > 1
    # half a step of 2^-53 of the sum, doubled by rounding the step up to a power of two, per value
    assert abs(sums.pop() - values.sum()) <= 5000 * 2.0**-53 * values.sum()
    assert snap(np.zeros(3), 0.0).tolist() == [0, 0, 0]


def test_intervals_from_units_are_as_wide_as_from_examples() -> None:
    rng = np.random.default_rng(0)
    ids, size = np.arange(20_000), rng.lognormal(0, 1, 20_000)
    columns = np.stack([size * (ids % 2), size], axis=1)
    units = resampling_units(ids)
    assert len(np.unique(units)) <= UNITS and resampling_units(ids[:100]) is not units
    np.testing.assert_array_equal(resampling_units(ids[:100]), ids[:100])
    widths = []
    for of in (ids, units):
        names, sums = by_unit(of, columns)
        (found,) = ratio_estimates(sums[:, :1], sums[:, 1:], names)
        widths.append(found.interval.high - found.interval.low)
    # 1 % from the units, 4 % from 1000 replicates on either side
    assert widths[1] / widths[0] == pytest.approx(1.0, abs=0.12)


@pytest.mark.slow
def test_memory_of_measuring_and_describing_does_not_follow_the_data(tmp_path: Path) -> None:
    """Ten times the rows, and a peak that is some megabytes higher, not ten times."""
    code = "import json; from benchmarks.analyze import *; print(json.dumps({call}))"

    def peak(call: str) -> float:
        command = [sys.executable, "-c", code.format(call=call)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        return told["peak_mib"] - told["before_mib"]

    def both(count: int) -> tuple[float, float]:
        table = str(tmp_path / str(count))
        return peak(f"measure_here({count}, {table!r})"), peak(f"describe_here({table!r})")

    small, large = both(10_000), both(50_000)
    # 40,000 examples more: at most 1.5 kB each (one row an example stays), where their 960,000 tokens take 100 MB
    assert large[0] - small[0] < 60 and large[1] - small[1] < 60, (small, large)
