"""What a compiler would save on a CPU: the elementwise work on a block of logits, as the engine does it and compiled.

    python -m benchmarks.elementwise               # width 768, two minutes
    python -m benchmarks.elementwise --width 256   # narrow models: the products are cheaper, the rest is not

One block of the one-pass mode as it lies there, 256 tokens by 8192 columns, column by column. The engine's own steps
between the products stand beside the same arithmetic given to `torch.compile` as one function for the read and one for
the gradient (inductor, summing over 64 columns at a time so that they stay in a core's cache). All take turns with the
block's three products; each figure is the median of a step's time over theirs, in per cent.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sftloss.statistics._rows import Formula
from sftloss.statistics._tile import Sums, _rows_to_gradient, add_block, take_target

TOKENS, COLUMNS, GROUP = 256, 8192, 64
OPTIONAL = {"cross_entropy": set(), "entropy": {"rest_entropy"}}


class Engine:
    """The passes of `statistics/_tile.py`."""

    def __init__(self, name: str) -> None:
        self.needed, self.has_entropy = OPTIONAL[name], name == "entropy"

    def read(self, z: Tensor, spare: Tensor, sums: Sums, hole: Tensor) -> None:
        add_block(z.t(), sums, hole, False, spare.t() if self.has_entropy else None)

    def write(self, z: Tensor, spare: Tensor, formula: Formula) -> None:
        exp, shifted = (spare, z.t()) if self.has_entropy else (z, None)
        _rows_to_gradient(exp.t(), shifted, formula, None)


class Compiled(Engine):
    """The same in one function each."""

    def read(self, z: Tensor, spare: Tensor, sums: Sums, hole: Tensor) -> None:
        if sums.exp_z is None:
            sums.m, sums.exp = _read(z, sums.m, sums.exp)
        else:
            sums.m, sums.exp, sums.exp_z = _read_entropy(z, spare, sums.m, sums.exp, sums.exp_z)

    def write(self, z: Tensor, spare: Tensor, formula: Formula) -> None:
        if formula.entropy is None:
            _write(z, formula.scale * formula.inverse)
        else:
            _write_entropy(spare, z, formula.scale * formula.inverse, formula.entropy * formula.inverse)


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
    moved = (total_z + torch.where(total > 0, drop * total, 0.0)) * torch.exp(drop)
    total = total * torch.exp(drop) + exp.sum(dim=1).sum(dim=0)
    return higher, total, moved + (exp * shifted).sum(dim=1).sum(dim=0)


@torch.compile(dynamic=False)
def _write(exp: Tensor, factor: Tensor) -> None:
    exp.mul_(factor)


@torch.compile(dynamic=False)
def _write_entropy(exp: Tensor, shifted: Tensor, factor: Tensor, entropy: Tensor) -> None:
    exp.mul_(factor - entropy * shifted)


def measure(width: int, rounds: int) -> dict[str, dict[str, float]]:
    """Per objective: per cent of the three products that reading and writing take, and the seconds of compiling."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(TOKENS, width), torch.randn(COLUMNS, width) * width**-0.5
    logits, targets = weight @ hidden.t(), torch.randint(0, COLUMNS, (TOKENS,))
    d_hidden, d_weight, z, spare = (torch.empty_like(value) for value in (hidden, weight, logits, logits))
    rows = torch.rand(TOKENS)

    def products() -> None:
        torch.mm(weight, hidden.t(), out=z)
        torch.mm(logits.t(), weight, out=d_hidden)
        torch.mm(logits, hidden, out=d_weight)

    def one(name: str, way: Engine) -> tuple[float, float, Tensor]:
        z.copy_(logits)
        sums = Sums.start(TOKENS, way.needed, z)
        hole = take_target(z.t(), targets, 0, sums)
        reading = clocked(lambda: way.read(z, spare, sums, hole))
        formula = Formula(sums.m, 1 / sums.exp, rows, rows, rows if name == "entropy" else None, None, None)
        writing = clocked(lambda: way.write(z, spare, formula))
        return reading, writing, spare if name == "entropy" else z

    found: dict[str, dict[str, float]] = {}
    for name in OPTIONAL:
        engine, compiled = Engine(name), Compiled(name)
        exact = one(name, engine)[2].clone()
        started = time.perf_counter()
        torch.testing.assert_close(one(name, compiled)[2], exact)
        row = {"seconds of compiling": round(time.perf_counter() - started, 1)}
        shares: dict[str, list[float]] = {}
        for _ in range(rounds):
            base = clocked(products)
            for way, label in ((engine, "engine"), (compiled, "compiled")):
                for step, seconds in zip(("read", "gradient"), one(name, way)[:2], strict=True):
                    shares.setdefault(f"{label}: {step}", []).append(100 * seconds / base)
        found[name] = row | {step: round(statistics.median(values), 2) for step, values in shares.items()}
        print(name, found[name], flush=True)
    return found


def clocked(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    found = measure(args.width, args.rounds)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    record = {
        "command": shlex.join(["python", "-m", "benchmarks.elementwise", *sys.argv[1:]]),
        "commit": commit,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "per cent of the three products": found,
    }
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
