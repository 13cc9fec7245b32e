"""Whether compiling the elementwise work pays on a CPU: steps with the engine's passes and with compiled ones.

    python -m benchmarks.elementwise                  # N=2048, D=768, V=49152; three minutes
    python -m benchmarks.elementwise --width 256      # a narrow model: cheaper products, the same passes

The engine reads a block of logits in several passes while it lies in the caches, and turns it into its gradient in one
or two (`statistics/backends/plain.py`). Here `torch.compile` compiles the same arithmetic as one function for the read
and one for the gradient (inductor; sums over 64 columns at a time, which stay in a core's own cache), in their place.
Steps take turns, each round in another order. The figures are the time of a step with compiled passes over one without,
and the additional seconds of the first step (for the first objective they include the start of the compiler).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # the seconds of compiling are those of a first run

import torch
from torch import Tensor

from benchmarks.common import CLOCKS, print_table, provenance, ratios, timed, write_json
from benchmarks.engine import Setting, contender, problem
from sftloss.statistics.backends import plain
from sftloss.statistics.backends.rows import GradientFormula, Sums

GROUP = 64
NAMES = ("one_pass", "entropy")


def add_rows(z: Tensor, sums: Sums, hole: Tensor, has_banned: bool, spare: Tensor | None) -> None:
    """In place of `plain._add_rows`, for these two objectives and blocks of whole groups, column by column."""
    if spare is None:
        m, exp = _read(z.t(), sums.m, sums.exp)
    else:
        assert sums.exp_z is not None
        m, exp, exp_z = _read_entropy(z.t(), spare.t(), sums.m, sums.exp, sums.exp_z)
        sums.exp_z.copy_(exp_z)
    sums.m.copy_(m)
    sums.exp.copy_(exp)


def rows_to_gradient(exp: Tensor, shifted: Tensor | None, formula: GradientFormula, column: Tensor | None) -> None:
    """In place of `plain._rows_to_gradient`."""
    factor = formula.scale * formula.inverse
    if shifted is None or formula.entropy is None:
        _write(exp.t(), factor)
    else:
        _write_entropy(exp.t(), shifted.t(), factor, formula.entropy * formula.inverse)


@torch.compile(dynamic=False)
def _read(z: Tensor, m: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    grouped = z.unflatten(0, (-1, GROUP))
    higher = torch.maximum(m, grouped.amax(dim=1).amax(dim=0))
    exp = torch.exp(grouped - higher)
    grouped.copy_(exp)
    return higher, total * torch.exp(m - higher) + exp.sum(dim=1).sum(dim=0)


@torch.compile(dynamic=False)
def _read_entropy(z: Tensor, spare: Tensor, m: Tensor, total: Tensor, total_z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    grouped = z.unflatten(0, (-1, GROUP))
    higher = torch.maximum(m, grouped.amax(dim=1).amax(dim=0))
    shifted = torch.clamp(grouped - higher, min=-1e4)
    exp, drop = torch.exp(shifted), m - higher
    grouped.copy_(shifted)
    spare.unflatten(0, (-1, GROUP)).copy_(exp)
    total_z = (total_z + torch.where(total > 0, drop * total, 0.0)) * torch.exp(drop)
    total = total * torch.exp(drop) + exp.sum(dim=1).sum(dim=0)
    return higher, total, total_z + (exp * shifted).sum(dim=1).sum(dim=0)


@torch.compile(dynamic=False)
def _write(exp: Tensor, factor: Tensor) -> None:
    exp.mul_(factor)


@torch.compile(dynamic=False)
def _write_entropy(exp: Tensor, shifted: Tensor, factor: Tensor, entropy: Tensor) -> None:
    exp.mul_(factor - entropy * shifted)


def compiled(run: Callable[[], None]) -> Callable[[], None]:
    def step() -> None:
        with mock.patch.multiple(plain, _add_rows=add_rows, _rows_to_gradient=rows_to_gradient):
            run()

    return step


def measure(setting: Setting, rounds: int) -> dict[str, Any]:
    inputs, rows, table = problem(setting), {}, {}
    for name in NAMES:
        own = contender(name, inputs)
        runs = {"engine": own, "compiled": compiled(own)}
        first, gradients = {}, {}
        own()  # allocators, threads
        for way, run in runs.items():
            start = time.perf_counter()
            run()
            first[way] = time.perf_counter() - start
            gradients[way] = [value.grad for value in inputs[:2]]
        for a, b in zip(gradients["compiled"], gradients["engine"], strict=True):
            assert (a - b).norm() < 1e-5 * b.norm(), "the compiled passes do something else"
        seconds = timed(runs, rounds)
        spread = {clock: ratios(seconds["compiled"][clock], seconds["engine"][clock]) for clock in CLOCKS}
        compiling = round(first["compiled"] - first["engine"], 1)
        rows[name] = {f"{clock} time over the engine's own: median, min, max": spread[clock] for clock in CLOCKS}
        rows[name]["seconds of compiling"] = compiling
        table[name] = {f"{clock} over the engine's own": spread[clock] for clock in CLOCKS} | {
            "compiling, s": compiling
        }
    print_table(f"Steps with compiled passes, width {setting.width}, {rounds} rounds", table)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    setting = Setting(2048, args.width, 49152)  # whole blocks of 8192 columns
    origin = {**provenance("elementwise"), "setting": vars(setting)}
    write_json(args.json, {**origin, "compiled": measure(setting, args.rounds)})


if __name__ == "__main__":
    main()
