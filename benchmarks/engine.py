"""Fused losses beside each other on this machine: time as ratios taken side by side, error, and peak memory.

    python -m benchmarks.engine                     # N=2048, D=768, V=50257, float32
    python -m benchmarks.engine --tokens 512 --width 256 --vocab 8000 --rounds 30
    python -m benchmarks.engine --ignored 0.6       # 60 % of the labels are -100
    python -m benchmarks.engine --frozen            # no gradient of the head; the floors lose a product each
    python -m benchmarks.engine --accumulate 4      # four backward passes onto the same gradients
    python -m benchmarks.engine --device cuda       # both shapes of the GPU figures, bfloat16, one record each

Contenders run in turn, each round in another order, in one process for time; on a CPU each in a process of its own for
memory. Memory is the peak resident size (on a GPU, of what is allocated) over the inputs and the gradients that are
returned anyway.
The floors are the bare products, with preallocated outputs, at the tiling of several with the lowest median: three for
one pass, four for two. Processor time is what other work on the machine disturbs least. The error is the relative error
of the gradients from float64, by Frobenius norms.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.floors import FLOORS, Problem, floor
from benchmarks.provenance import provenance
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
PEERS = ("plain", "torch", "torch chunks of 512", "trl", "liger", "cce", "cce exact")
CUDA_SHAPES = ((8192, 4096, 128256), (8192, 2304, 256000))


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    tokens: int
    width: int
    vocab: int
    ignored: float = 0.0
    device: str = "cpu"
    dtype: str = "float32"
    frozen: bool = False
    accumulate: int = 1


def problem(setting: Setting) -> Problem:
    """Hidden states, weight and targets, the same in every process."""
    generator = torch.Generator(setting.device).manual_seed(0)
    how: dict[str, Any] = {"generator": generator, "device": setting.device}
    dtype = getattr(torch, setting.dtype)
    hidden = torch.randn(setting.tokens, setting.width, **how).to(dtype).requires_grad_()
    weight = torch.randn(setting.vocab, setting.width, **how).mul_(setting.width**-0.5).to(dtype)
    targets = torch.randint(0, setting.vocab, (setting.tokens,), **how)
    targets[torch.rand(setting.tokens, **how) < setting.ignored] = -100
    return hidden, weight.requires_grad_(not setting.frozen), targets


def loss_of(name: str, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The mean loss of the tokens that count, by one of the contenders."""
    if name in OURS:
        expression, mode = OURS[name]
        coefficients = (targets != -100).float()
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
    if name == "liger":
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        found = liger_fused_linear_cross_entropy(hidden, weight, targets)
        return found[0] if isinstance(found, tuple) else found
    if name in ("cce", "cce exact"):
        from cut_cross_entropy import linear_cross_entropy

        return linear_cross_entropy(hidden, weight, targets, impl=name.replace(" ", "_"))
    options: dict[str, Any] = {} if name == "torch" else {"batch_chunk_size": 512, "chunking_method": None}
    return F.linear_cross_entropy(hidden, weight, targets, options=torch.nn.LinearCrossEntropyOptions(**options))


def contender(name: str, given: Problem, times: int = 1) -> Callable[[], None]:
    """Forward and backward, `times` onto the same gradients, which are dropped before each call."""
    hidden, weight, targets = given

    def run() -> None:
        hidden.grad = weight.grad = None
        for _ in range(times):
            loss_of(name, hidden, weight, targets).backward()

    return run


def available(given: Problem, asked: list[str]) -> list[str]:
    """The contenders asked for that run here; a missing one is named, not hidden."""
    names = []
    for name in (peer for peer in PEERS if peer in asked):
        try:
            loss_of(name, given[0][:256], given[1][:512], given[2][:256] % 512).backward()
            names.append(name)
        except Exception as error:  # a peer may refuse a device, a shape or a build in its own way
            print(f"{name}: does not run here ({type(error).__name__}: {str(error).splitlines()[0][:120]})")
    return [*names, *(name for name in OURS if name in asked)]


def errors(names: list[str], given: Problem) -> dict[str, float]:
    """Relative error of the gradients from float64, for those whose objective is plain cross-entropy."""
    exact = [value.detach().double().requires_grad_(value.requires_grad) for value in given[:2]]
    for start in range(0, given[2].shape[0], 1024):  # the float64 logits of all tokens may not fit
        piece = slice(start, start + 1024)
        logits = F.linear(exact[0][piece], exact[1])
        (F.cross_entropy(logits, given[2][piece], reduction="sum") / (given[2] != -100).sum()).backward()
    found = {}
    for name in names:
        if name in PEERS or OURS[name][0] == "cross_entropy":
            contender(name, given)()
            pairs = [(mine.grad, true.grad) for mine, true in zip(given[:2], exact, strict=True)]
            found[name] = max(
                float((a.double() - b).norm() / b.norm()) for a, b in pairs if a is not None and b is not None
            )
    return found


def peak_mib(name: str, setting: Setting) -> float:
    """Peak memory of one step beyond inputs and returned gradients; of resident memory, in a fresh process."""
    if setting.device == "cuda":
        return allocated(name, setting)
    code = f"from benchmarks.engine import Setting, measure_here; print(measure_here({name!r}, {setting!r}))"
    root = Path(__file__).resolve().parents[1]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return float(out.stdout.splitlines()[-1])


def measure_here(name: str, setting: Setting) -> float:
    contender(name, problem(replace(setting, tokens=8, vocab=64)))()  # load the libraries' code before counting
    run = contender(name, problem(setting), setting.accumulate)
    before = resident("VmRSS")
    run()
    return (resident("VmHWM") - before) / 1024 - gradients_mib(setting)


def allocated(name: str, setting: Setting) -> float:
    given = problem(setting)
    run = contender(name, given, setting.accumulate)
    run()  # workspaces of the libraries, and compilation
    given[0].grad = given[1].grad = None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**20 - gradients_mib(setting)


def gradients_mib(setting: Setting) -> float:
    rows = setting.tokens + (0 if setting.frozen else setting.vocab)
    return getattr(torch, setting.dtype).itemsize * rows * setting.width / 2**20


def resident(field: str) -> int:
    """Now (VmRSS) or the most so far (VmHWM), in KiB. Not getrusage: its peak is inherited from the parent process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}; the memory figures need Linux.")


def timed(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each run, in turn, by both clocks; the first round warms up.

    Each round has an order of its own, so that what a run leaves behind meets another one each time.
    """
    wait = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    clocks = {"wall": time.perf_counter, "processor": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {name: {clock: [] for clock in clocks} for name in runs}
    order, shuffled = list(runs), random.Random(0)
    for turn in range(rounds + 1):
        shuffled.shuffle(order)
        for name in order:
            wait()
            start = {clock: read() for clock, read in clocks.items()}
            runs[name]()
            wait()
            if turn:
                for clock, read in clocks.items():
                    seconds[name][clock].append(read() - start[clock])
    return seconds


def ratios(mine: list[float], other: list[float]) -> list[float]:
    """Median, smallest and largest ratio of runs of the same round."""
    found = [a / b for a, b in zip(mine, other, strict=True)]
    return [round(value, 3) for value in (statistics.median(found), min(found), max(found))]


def compare(setting: Setting, rounds: int, asked: list[str]) -> dict[str, Any]:
    given, floors, times = problem(setting), FLOORS[setting.device], setting.accumulate
    names = available(given, asked)
    runs = {name: contender(name, given, times) for name in names}
    for name, tilings in floors.items():
        runs |= {f"{name} {tiling}": floor(int(name[-1]), tiling, given, times) for tiling in tilings}
    seconds = timed(runs, rounds)
    best = {}
    for name in floors:
        tried = [run for run in seconds if run.startswith(name)]
        best[name] = min(tried, key=lambda run: statistics.median(seconds[run]["processor"]))
        seconds[name] = seconds[best[name]]
    wrong = errors(names, given)
    del runs, given
    memory = {name: peak_mib(name, setting) for name in names}
    rows: dict[str, Any] = {}
    for name in (*names, *floors):
        below = "floor of 4" if name == "two_pass" else "floor of 3"
        rows[name] = {
            f"{clock} time over {other}: median, min, max": ratios(seconds[name][clock], seconds[other][clock])
            for clock in ("wall", "processor")
            for other in ("plain", below)
            if other in seconds
        }
        if name in best:
            rows[name]["tokens, columns, whether the weight is on the left"] = best[name].removeprefix(f"{name} ")
        if name in memory:
            rows[name]["peak_mib"] = round(memory[name], 1)
            if "plain" in memory:
                rows[name]["memory_over_plain"] = round(memory[name] / memory["plain"], 3)
        if name in wrong:
            rows[name]["relative error of the gradients"] = float(f"{wrong[name]:.2g}")
        print(f"{name:28s} {rows[name]}", flush=True)
    return rows


def record(setting: Setting, rounds: int, asked: list[str]) -> dict[str, Any]:
    told = provenance("engine")
    if setting.device == "cuda":
        told["machine"] = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return {**told, "setting": vars(setting), "contenders": compare(setting, rounds, asked)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--vocab", type=int)
    parser.add_argument("--ignored", type=float, default=0.0, help="share of the labels that are -100")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="bfloat16 on a GPU, else float32")
    parser.add_argument("--frozen", action="store_true", help="the head takes no gradient")
    parser.add_argument("--accumulate", type=int, default=1, help="backward passes onto the same gradients")
    parser.add_argument("--rounds", type=int, default=5)
    every = [*PEERS, *OURS]
    parser.add_argument("--contenders", nargs="+", choices=every, default=every, help="some of them, by name")
    parser.add_argument("--json", type=Path, help="write the figures here; without --tokens, a list for --device cuda")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; leave it out for the CPU figures.")
    if args.rounds < 1 or not 0 <= args.ignored < 1:
        parser.error("--rounds is at least 1; --ignored is at least 0 and below 1.")
    if args.json and not args.json.parent.is_dir():
        parser.error(f"--json: {args.json.parent} is no folder; make it first.")
    sizes = (args.tokens, args.width, args.vocab)
    if any(sizes) and not all(sizes):
        parser.error("--tokens, --width and --vocab go together.")
    shapes = (sizes,) if all(sizes) else CUDA_SHAPES if args.device == "cuda" else ((2048, 768, 50257),)
    dtype = args.dtype or ("bfloat16" if args.device == "cuda" else "float32")
    found = []
    for shape in shapes:
        setting = Setting(*shape, args.ignored, args.device, dtype, args.frozen, args.accumulate)
        found.append(record(setting, args.rounds, args.contenders))
        if args.json:  # after each shape, so that a lent device's time is not lost with the second
            args.json.write_text(json.dumps(found if len(shapes) > 1 else found[0], indent=1) + "\n")


if __name__ == "__main__":
    main()
