"""Fused losses beside each other on this machine: time as ratios, error of the gradients, and peak memory.

    python -m benchmarks.engine                     # N=2048, D=768, V=50257, float32
    python -m benchmarks.engine --tokens 512 --width 256 --vocab 8000 --rounds 30
    python -m benchmarks.engine --ignored 0.6       # 60 % of the labels are -100
    python -m benchmarks.engine --frozen            # no gradient of the head; the floors lose a product each
    python -m benchmarks.engine --accumulate 4      # four backward passes onto the same gradients
    python -m benchmarks.engine --device cuda       # both shapes of the GPU figures, bfloat16, one record each

Contenders take turns in one process for time, each round in another order. On a CPU each has a process of its own for
memory. Memory is the peak resident size (on a GPU, the peak of what is allocated) beyond the inputs and the returned
gradients. The floors are the bare products with preallocated outputs: three for one pass, four for two. Of several
tilings the one with the lowest median counts. Other work on the machine disturbs the processor time least. The error is
the relative error of the gradients from float64, by Frobenius norms.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import in_fresh_process, print_table, provenance, ratios, resident_mib, timed, write_json
from benchmarks.floors import FLOORS, Problem, floor
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
        options = (1.0, 32768, None, 1.0, ())
        return -ChunkedLogProbFunction.apply(hidden[kept], weight, None, targets[kept], *options)[0].mean()
    if name == "liger":
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        result = liger_fused_linear_cross_entropy(hidden, weight, targets)
        return result[0] if isinstance(result, tuple) else result
    if name in ("cce", "cce exact"):
        from cut_cross_entropy import linear_cross_entropy

        return linear_cross_entropy(hidden, weight, targets, impl=name.replace(" ", "_"))
    options: dict[str, Any] = {} if name == "torch" else {"batch_chunk_size": 512, "chunking_method": None}
    return F.linear_cross_entropy(hidden, weight, targets, options=torch.nn.LinearCrossEntropyOptions(**options))


def contender(name: str, inputs: Problem, times: int = 1) -> Callable[[], None]:
    """Return a run of forward and backward, `times` onto the same gradients, which are dropped before each run."""
    hidden, weight, targets = inputs

    def run() -> None:
        hidden.grad = weight.grad = None
        for _ in range(times):
            loss_of(name, hidden, weight, targets).backward()

    return run


def available(inputs: Problem, wanted: list[str]) -> list[str]:
    """Return the wanted contenders that run here; print which do not."""
    names = []
    for name in (peer for peer in PEERS if peer in wanted):
        try:
            loss_of(name, inputs[0][:256], inputs[1][:512], inputs[2][:256] % 512).backward()
            names.append(name)
        except Exception as error:  # a peer may refuse a device, a shape or a build in its own way
            print(f"{name}: does not run here ({type(error).__name__}: {str(error).splitlines()[0][:120]})")
    return [*names, *(name for name in OURS if name in wanted)]


def errors(names: list[str], inputs: Problem) -> dict[str, float]:
    """Return the relative error of the gradients from float64, for contenders whose objective is cross-entropy."""
    exact = [value.detach().double().requires_grad_(value.requires_grad) for value in inputs[:2]]
    for start in range(0, inputs[2].shape[0], 1024):  # the float64 logits of all tokens may not fit
        piece = slice(start, start + 1024)
        logits = F.linear(exact[0][piece], exact[1])
        (F.cross_entropy(logits, inputs[2][piece], reduction="sum") / (inputs[2] != -100).sum()).backward()
    largest = {}
    for name in names:
        if name in PEERS or OURS[name][0] == "cross_entropy":
            contender(name, inputs)()
            pairs = [(mine.grad, true.grad) for mine, true in zip(inputs[:2], exact, strict=True)]
            relative = [float((a.double() - b).norm() / b.norm()) for a, b in pairs if a is not None and b is not None]
            largest[name] = float(f"{max(relative):.2g}")
    return largest


def peak_mib(name: str, setting: Setting) -> float:
    """Return the peak memory of one step beyond inputs and returned gradients."""
    if setting.device == "cuda":
        return allocated(name, setting)
    return in_fresh_process("engine", f"measure_here({name!r}, {setting!r})")


def measure_here(name: str, setting: Setting) -> float:
    contender(name, problem(replace(setting, tokens=8, vocab=64)))()  # load the libraries' code before counting
    run = contender(name, problem(setting), setting.accumulate)
    before = resident_mib("VmRSS")
    run()
    return resident_mib("VmHWM") - before - gradients_mib(setting)


def allocated(name: str, setting: Setting) -> float:
    inputs = problem(setting)
    run = contender(name, inputs, setting.accumulate)
    run()  # workspaces of the libraries, and compilation
    inputs[0].grad = inputs[1].grad = None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**20 - gradients_mib(setting)


def gradients_mib(setting: Setting) -> float:
    rows = setting.tokens + (0 if setting.frozen else setting.vocab)
    return getattr(torch, setting.dtype).itemsize * rows * setting.width / 2**20


def compare(setting: Setting, rounds: int, wanted: list[str]) -> dict[str, Any]:
    """Return the figures of every contender and floor, and print them as a table."""
    inputs, floors = problem(setting), FLOORS[setting.device]
    names = available(inputs, wanted)
    runs = {name: contender(name, inputs, setting.accumulate) for name in names}
    for name, tilings in floors.items():
        runs |= {f"{name} {tiling}": floor(int(name[-1]), tiling, inputs, setting.accumulate) for tiling in tilings}
    seconds = timed(runs, rounds)
    best = {}
    for name in floors:
        tried = [run for run in seconds if run.startswith(name)]
        best[name] = min(tried, key=lambda run: statistics.median(seconds[run]["processor"]))
        seconds[name] = seconds[best[name]]
    error = errors(names, inputs)
    del runs, inputs
    memory = {name: round(peak_mib(name, setting), 1) for name in names}
    rows: dict[str, dict[str, Any]] = {}
    table: dict[str, dict[str, Any]] = {}
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
            rows[name]["peak_mib"] = memory[name]
            if "plain" in memory:
                rows[name]["memory_over_plain"] = round(memory[name] / memory["plain"], 3)
        if name in error:
            rows[name]["relative error of the gradients"] = error[name]
        table[name] = {
            "processor time over floor": rows[name][f"processor time over {below}: median, min, max"],
            "over plain": rows[name].get("processor time over plain: median, min, max"),
            "wall over plain": rows[name].get("wall time over plain: median, min, max"),
            "MiB": memory.get(name),
            "of plain's": rows[name].get("memory_over_plain"),
            "gradient error": error.get(name),
        }
    print_table(f"{setting}, {rounds} rounds", table)
    return rows


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
    parser.add_argument("--json", type=Path, help="write the figures here; a list where there are several shapes")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here. Leave it out for the CPU figures.")
    if args.rounds < 1 or not 0 <= args.ignored < 1:
        parser.error("--rounds must be at least 1; --ignored must be at least 0 and below 1.")
    if args.json and not args.json.parent.is_dir():
        parser.error(f"--json: the folder {args.json.parent} does not exist.")
    sizes = (args.tokens, args.width, args.vocab)
    if any(sizes) and not all(sizes):
        parser.error("give --tokens, --width and --vocab together.")
    shapes = (sizes,) if all(sizes) else CUDA_SHAPES if args.device == "cuda" else ((2048, 768, 50257),)
    dtype = args.dtype or ("bfloat16" if args.device == "cuda" else "float32")
    records = []
    for shape in shapes:
        setting = Setting(*shape, args.ignored, args.device, dtype, args.frozen, args.accumulate)
        origin = {**provenance("engine"), "setting": vars(setting)}
        records.append({**origin, "contenders": compare(setting, args.rounds, args.contenders)})
        # after each shape, so that the figures of the first survive a second that fails
        write_json(args.json, records if len(shapes) > 1 else records[0])


if __name__ == "__main__":
    main()
