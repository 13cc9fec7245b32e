"""Fused cross-entropy beside the plain one on this machine: time as ratios taken side by side, and peak memory.

    python benchmarks/engine.py                     # N=2048, D=768, V=50257, float32
    python benchmarks/engine.py --tokens 512 --width 256 --vocab 8000

Contenders run in turn, A B C A B C, in one process for time; each in a process of its own for memory. Memory is the
peak resident size over the inputs and the gradients that are returned anyway.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from sftloss.loss import weighted_loss
from sftloss.objectives import objective
from sftloss.statistics import Head, Plan

CONTENDERS = ("plain", "one_pass", "two_pass", "focal", "label_smoothing + z_loss", "entropy")
EXPRESSIONS = {
    "focal": "focal(gamma=2)",
    "label_smoothing + z_loss": "label_smoothing(epsilon=0.1) + 1e-4 * z_loss",
    "entropy": "cross_entropy + 0.1 * entropy_bonus",
}


def contender(name: str, tokens: int, width: int, vocab: int) -> Callable[[], None]:
    """One forward and backward; gradients are dropped before each call."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).requires_grad_()
    weight = torch.randn(vocab, width, generator=generator).mul_(width**-0.5).requires_grad_()
    targets = torch.randint(0, vocab, (tokens,), generator=generator)
    coefficients = torch.full((tokens,), 1 / tokens)
    function = objective(EXPRESSIONS.get(name, "cross_entropy"))
    plan = Plan(mode="two_pass" if name == "two_pass" else "one_pass")

    def run() -> None:
        hidden.grad = weight.grad = None
        if name == "plain":
            loss = F.cross_entropy(hidden @ weight.t(), targets)
        else:
            loss = weighted_loss(hidden, Head(weight), targets, coefficients, function, plan=plan)[0]
        loss.backward()

    return run


def peak_mib(name: str, shape: tuple[int, int, int]) -> float:
    """Peak resident memory of one step in a fresh process, beyond inputs and returned gradients."""
    code = (
        "import sys; from benchmarks.engine import measure_here; "
        f"print(measure_here({name!r}, {shape[0]}, {shape[1]}, {shape[2]}))"
    )
    root = Path(__file__).resolve().parents[1]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return float(out.stdout)


def measure_here(name: str, tokens: int, width: int, vocab: int) -> float:
    contender(name, 8, width, 64)()  # load the libraries' code before counting
    run = contender(name, tokens, width, vocab)
    before = resident("VmRSS")
    run()
    gradients = 4 * (tokens + vocab) * width
    return (resident("VmHWM") - before) / 1024 - gradients / 2**20


def resident(field: str) -> int:
    """Now (VmRSS) or the most so far (VmHWM), in KiB. Not getrusage: its peak is inherited from the parent process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}; the memory figures need Linux.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    shape = (args.tokens, args.width, args.vocab)
    runs = {name: contender(name, *shape) for name in CONTENDERS}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(args.rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    del runs
    memory = {name: peak_mib(name, shape) for name in CONTENDERS}
    rows = {}
    for name in CONTENDERS:
        ratios = [a / b for a, b in zip(seconds[name], seconds["plain"], strict=True)]
        rows[name] = {
            "time_over_plain_median": round(statistics.median(ratios), 3),
            "time_over_plain_min": round(min(ratios), 3),
            "time_over_plain_max": round(max(ratios), 3),
            "peak_mib": round(memory[name], 1),
            "memory_over_plain": round(memory[name] / memory["plain"], 3),
        }
        print(f"{name:28s} {rows[name]}")
    if args.json:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        record = {
            "command": " ".join(["python", "benchmarks/engine.py", *sys.argv[1:]]),
            "commit": commit,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
            "tokens, width, vocab": shape,
            "contenders": rows,
        }
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
