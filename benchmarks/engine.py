"""Fused losses beside each other on this machine: time as ratios taken side by side, error, and peak memory.

    python -m benchmarks.engine                     # N=2048, D=768, V=50257, float32
    python -m benchmarks.engine --tokens 512 --width 256 --vocab 8000 --rounds 40
    python -m benchmarks.engine --ignored 0.6       # 60 % of the labels are -100

Contenders run in turn, A B C A B C, in one process for time; each in a process of its own for memory. Memory is the
peak resident size over the inputs and the gradients that are returned anyway. The floors are the bare products, with
preallocated outputs, at the best of several tilings: three for one pass, four for two. Processor time is what other
work on the machine disturbs least. The error is the relative error of the gradients from float64, by Frobenius norms.
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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sftloss.loss import weighted_loss
from sftloss.objectives import objective
from sftloss.statistics import Head, Plan

OURS = {
    "one_pass": ("cross_entropy", "one_pass"),
    "two_pass": ("cross_entropy", "two_pass"),
    "focal": ("focal(gamma=2)", "one_pass"),
    "label_smoothing + z_loss": ("label_smoothing(epsilon=0.1) + 1e-4 * z_loss", "one_pass"),
    "entropy": ("cross_entropy + 0.1 * entropy_bonus", "one_pass"),
}
PEERS = ("plain", "torch", "torch chunks of 512", "trl")
FLOORS = {"floor of 3": ((512, 512), (256, 512), (1024, 2048)), "floor of 4": ((2048, 2048), (1024, 1024))}
Problem = tuple[Tensor, Tensor, Tensor]


def problem(tokens: int, width: int, vocab: int, ignored: float) -> Problem:
    """Hidden states, weight and targets, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).requires_grad_()
    weight = torch.randn(vocab, width, generator=generator).mul_(width**-0.5).requires_grad_()
    targets = torch.randint(0, vocab, (tokens,), generator=generator)
    targets[torch.rand(tokens, generator=generator) < ignored] = -100
    return hidden, weight, targets


def loss_of(name: str, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The mean loss of the tokens that count, by one of the contenders."""
    if name in OURS:
        expression, mode = OURS[name]
        coefficients = (targets != -100).to(hidden.dtype)
        coefficients /= coefficients.sum()
        plan = Plan(mode=mode)  # type: ignore[arg-type]
        return weighted_loss(hidden, Head(weight), targets, coefficients, objective(expression), plan=plan)[0]
    if name == "plain":
        return F.cross_entropy(F.linear(hidden, weight), targets)
    if name == "trl":
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction

        kept = targets != -100
        return -ChunkedLogProbFunction.apply(hidden[kept], weight, None, targets[kept], 1.0, 32768, None, 1.0, ())[
            0
        ].mean()
    options: dict[str, Any] = {} if name == "torch" else {"batch_chunk_size": 512, "chunking_method": None}
    return F.linear_cross_entropy(hidden, weight, targets, options=torch.nn.LinearCrossEntropyOptions(**options))


def contender(name: str, given: Problem) -> Callable[[], None]:
    """One forward and backward; gradients are dropped before each call."""
    hidden, weight, targets = given

    def run() -> None:
        hidden.grad = weight.grad = None
        loss_of(name, hidden, weight, targets).backward()

    return run


def floor(products: int, rows: int, columns: int, given: Problem) -> Callable[[], None]:
    """The bare products of the tokens that count; the fourth is the logits once more."""
    hidden, weight = given[0].detach()[given[2] != -100], given[1].detach()
    tokens, vocab = hidden.shape[0], weight.shape[0]
    rows = min(rows, tokens)
    d_hidden, d_weight = torch.empty_like(hidden), torch.empty_like(weight)
    z = torch.empty(rows, vocab if products == 3 else columns)

    def three() -> None:
        for i in range(0, tokens, rows):
            h = hidden[i : i + rows]
            part = z[: h.shape[0]]
            for j in range(0, vocab, columns):
                torch.mm(h, weight[j : j + columns].t(), out=part[:, j : j + columns])
            torch.mm(part, weight, out=d_hidden[i : i + rows])
            d_weight.addmm_(part.t(), h, beta=float(i > 0))

    def four() -> None:
        for i in range(0, tokens, rows):
            h = hidden[i : i + rows]
            for j in range(0, vocab, columns):
                w = weight[j : j + columns]
                part = z[: h.shape[0], : w.shape[0]]
                torch.mm(h, w.t(), out=part)
                torch.mm(h, w.t(), out=part)
                d_hidden[i : i + rows].addmm_(part, w, beta=float(j > 0))
                d_weight[j : j + columns].addmm_(part.t(), h, beta=float(i > 0))

    return three if products == 3 else four


def available(given: Problem) -> list[str]:
    """The peers that run here; a missing one is named, not hidden."""
    names = []
    for name in PEERS:
        try:
            loss_of(name, given[0][:8], given[1][:64], given[2][:8] % 64).backward()
            names.append(name)
        except (ImportError, AttributeError, TypeError) as error:
            print(f"{name}: does not run here ({error})")
    return [*names, *OURS]


def errors(names: list[str], given: Problem) -> dict[str, float]:
    """Relative error of the gradients from float64, for those whose objective is plain cross-entropy."""
    exact = [value.detach().double().requires_grad_() for value in given[:2]]
    contender("plain", (exact[0], exact[1], given[2]))()
    found = {}
    for name in names:
        if name in PEERS or OURS[name][0] == "cross_entropy":
            contender(name, given)()
            pairs = [(mine.grad, true.grad) for mine, true in zip(given[:2], exact, strict=True)]
            found[name] = max(float((a.double() - b).norm() / b.norm()) for a, b in pairs if a is not None)
    return found


def peak_mib(name: str, shape: tuple[int, int, int], ignored: float) -> float:
    """Peak resident memory of one step in a fresh process, beyond inputs and returned gradients."""
    code = f"from benchmarks.engine import measure_here; print(measure_here({name!r}, *{shape!r}, {ignored}))"
    root = Path(__file__).resolve().parents[1]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return float(out.stdout.splitlines()[-1])


def measure_here(name: str, tokens: int, width: int, vocab: int, ignored: float) -> float:
    contender(name, problem(8, width, 64, 0.0))()  # load the libraries' code before counting
    run = contender(name, problem(tokens, width, vocab, ignored))
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


def timed(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each run, in turn, by both clocks; the first round warms up."""
    clocks = {"wall": time.perf_counter, "processor": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {name: {clock: [] for clock in clocks} for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = {clock: read() for clock, read in clocks.items()}
            run()
            if turn:
                for clock, read in clocks.items():
                    seconds[name][clock].append(read() - start[clock])
    return seconds


def ratios(mine: list[float], other: list[float]) -> list[float]:
    """Median, smallest and largest ratio of runs of the same round."""
    found = [a / b for a, b in zip(mine, other, strict=True)]
    return [round(value, 3) for value in (statistics.median(found), min(found), max(found))]


def compare(shape: tuple[int, int, int], ignored: float, rounds: int) -> dict[str, Any]:
    given = problem(*shape, ignored)
    names = available(given)
    runs = {name: contender(name, given) for name in names}
    for name, tilings in FLOORS.items():
        runs |= {f"{name} {tiling}": floor(int(name[-1]), *tiling, given) for tiling in tilings}
    seconds = timed(runs, rounds)
    for name in FLOORS:
        tried = [seconds[run] for run in seconds if run.startswith(name)]
        seconds[name] = {
            clock: [min(each) for each in zip(*(t[clock] for t in tried), strict=True)] for clock in tried[0]
        }
    wrong = errors(names, given)
    memory = {name: peak_mib(name, shape, ignored) for name in names}
    rows: dict[str, Any] = {}
    for name in (*names, *FLOORS):
        below = "floor of 4" if name == "two_pass" else "floor of 3"
        rows[name] = {
            f"{clock} time over {other}: median, min, max": ratios(seconds[name][clock], seconds[other][clock])
            for clock in ("wall", "processor")
            for other in ("plain", below)
        }
        if name in memory:
            rows[name] |= {
                "peak_mib": round(memory[name], 1),
                "memory_over_plain": round(memory[name] / memory["plain"], 3),
            }
        if name in wrong:
            rows[name]["relative error of the gradients"] = float(f"{wrong[name]:.2g}")
        print(f"{name:28s} {rows[name]}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--ignored", type=float, default=0.0, help="share of the labels that are -100")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    shape = (args.tokens, args.width, args.vocab)
    rows = compare(shape, args.ignored, args.rounds)
    if args.json:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        record = {
            "command": " ".join(["python", "-m", "benchmarks.engine", *sys.argv[1:]]),
            "commit": commit,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
            "tokens, width, vocab": shape,
            "contenders": rows,
        }
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
