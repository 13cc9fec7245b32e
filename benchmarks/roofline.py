"""Bytes and operations of a fused loss, and the time they take on a device of two rates.

    python -m benchmarks.roofline                                  # this CPU: both rates measured, prediction and truth
    python -m benchmarks.roofline --device h200                    # on paper, from the data sheet
    python -m benchmarks.roofline --flops 250 --bandwidth 1.2 --tokens 8192 --width 4096 --vocab 128256

A step is a list of phases. Each phase has operations (2 N D V a product) and bytes that pass between memory and the
processor. Where they overlap it takes the larger of operations / rate and bytes / bandwidth, where not their sum: the
two totals, "at least" and "at most". `reached` is the share of the peak that large products reach: 0.78 on H200 is what
the best published kernels show; on a CPU the rate is measured and `reached` is 1. The model leaves out the start of
kernels and products that are too small for the device. No GPU has run the code, so for GPUs these are figures on paper.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.common import print_table, provenance, timed, write_json
from benchmarks.engine import Setting, contender, problem
from benchmarks.floors import FLOORS, floor


@dataclass(frozen=True)
class Device:
    """Two rates: operations of large products a second, and bytes between memory and processor a second."""

    flops: float
    bandwidth: float
    reached: float = 1.0


DEVICES = {
    "h200": Device(989e12, 4.8e12, 0.78),
    "h100": Device(989e12, 3.35e12, 0.78),
    "a100": Device(312e12, 2.04e12, 0.8),
    "mi300x": Device(1307e12, 5.3e12, 0.55),
}


@dataclass(frozen=True)
class Step:
    """One forward and backward pass of the head and its loss.

    Attributes:
        tokens, width, vocab: Shape.
        itemsize: Bytes of a number of the inputs and of dz.
        logit_bytes: Bytes of a logit in memory.
        chunk: Tokens at a time; all of them for the plain formula.
        counted: Share of the tokens that have a target.
        drops: Whether the others are left out of the products.
        products: 3 in one pass, 4 in two, one less where the head is frozen.
        sweeps: Passes over the logits beside the products: what reads or writes each of them once.
        kept: Share of the columns in the two gradient products; below 1 for a filter.
    """

    tokens: int
    width: int
    vocab: int
    itemsize: int = 2
    logit_bytes: int = 4
    chunk: int = 4096
    counted: float = 1.0
    drops: bool = True
    products: int = 3
    sweeps: float = 3.0
    kept: float = 1.0


class Phase(NamedTuple):
    """A part of a step."""

    name: str
    operations: float
    bytes: float


def phases(step: Step) -> list[Phase]:
    """Return the parts of a step: products, passes over the logits, and the sums of dW over the chunks."""
    tokens = step.tokens * (step.counted if step.drops else 1.0)
    chunks = math.ceil(tokens / step.chunk)
    logits, weight, hidden = tokens * step.vocab, step.vocab * step.width, tokens * step.width
    product = 2.0 * logits * step.width
    forward = step.products - 2
    return [
        Phase("logits", forward * product, forward * (chunks * weight * step.itemsize + logits * step.logit_bytes)),
        Phase("passes over the logits", 0.0, step.sweeps * logits * step.logit_bytes),
        Phase("dh", product * step.kept, step.kept * (logits + chunks * weight + hidden) * step.itemsize),
        # the float32 sum is read and written for each chunk, but not read for the first
        Phase("dW", product * step.kept, step.kept * logits * step.itemsize + (2 * chunks - 1) * weight * 4),
    ]


def seconds(step: Step, device: Device) -> dict[str, float]:
    """Return the time of each phase, and of all: with bytes and operations overlapped, and one after the other."""
    parts = phases(step)
    work = [part.operations / (device.flops * device.reached) for part in parts]
    moves = [part.bytes / device.bandwidth for part in parts]
    times = {part.name: max(pair) for part, *pair in zip(parts, work, moves, strict=True)}
    return {**times, "at least": sum(times.values()), "at most": sum(work) + sum(moves)}


def on_paper(shape: tuple[int, int, int], device: Device) -> dict[str, dict[str, float]]:
    """Return the predicted milliseconds of the ways to compute a step in bfloat16."""
    tokens, width, vocab = shape
    chunk = max(256, 640 * 2**20 // (vocab * 4))
    base = Step(tokens, width, vocab)
    steps = {
        "the three products alone": replace(base, sweeps=0.0, logit_bytes=2, chunk=tokens),
        "plain, bfloat16 logits": replace(base, chunk=tokens, logit_bytes=2, sweeps=7.0),
        "one pass, 640 MiB of float32 logits": replace(base, chunk=chunk),
        "one pass, 4096 tokens a chunk": base,
        "one pass, 4096 tokens, bfloat16 logits": replace(base, logit_bytes=2),
        "two passes": replace(base, products=4, chunk=tokens, sweeps=4.0),
        "half ignored, multiplied all the same": replace(base, chunk=chunk, counted=0.5, drops=False),
        "half ignored, dropped": replace(base, counted=0.5),
        "one pass, 10 % of the columns kept": replace(base, kept=0.1, sweeps=5.0),
    }
    return {
        name: {part: rounded(1e3 * value) for part, value in seconds(step, device).items()}
        for name, step in steps.items()
    }


def rounded(value: float) -> float:
    """Return four digits of a time, however short it is."""
    return float(f"{value:.4g}")


def measured(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median processor time of each run, which the work of others disturbs least, in a random order."""
    return {name: statistics.median(clocks["processor"]) for name, clocks in timed(runs, rounds).items()}


def this_processor(rounds: int) -> Device:
    """Measure the two rates of this CPU: a product of large matrices, and a copy larger than the caches."""
    a, b = torch.randn(512, 768), torch.randn(768, 8192)
    x, y = torch.ones(2**26), torch.empty(2**26)
    taken = measured({"products": lambda: [a @ b for _ in range(4)], "copy": lambda: y.copy_(x)}, rounds)
    return Device(4 * 2 * 512 * 768 * 8192 / taken["products"], 2 * 4 * 2**26 / taken["copy"])


def checked_here(shape: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """Return predicted and measured seconds of the floor, one pass and plain on this CPU, in float32."""
    device = this_processor(rounds)
    inputs = problem(Setting(*shape))
    base = Step(*shape, itemsize=4, chunk=256)
    # a block of logits is multiplied, read and turned into dz while it is in the caches
    steps = {
        "floor": replace(base, sweeps=0.0),
        "one_pass": replace(base, sweeps=1.0),
        "plain": replace(base, chunk=shape[0], sweeps=8.0),
    }
    tilings = FLOORS["cpu"]["floor of 3"]
    runs = {name: contender(name, inputs) for name in ("one_pass", "plain")}
    truth = measured({**runs, **{str(tiling): floor(3, tiling, inputs, 1) for tiling in tilings}}, rounds)
    truth["floor"] = min(truth[str(tiling)] for tiling in tilings)
    rows = {}
    for name, step in steps.items():
        predicted = seconds(step, device)
        rows[name] = {
            "at least, s": rounded(predicted["at least"]),
            "at most, s": rounded(predicted["at most"]),
            "measured, s": rounded(truth[name]),
            "measured over at least": round(truth[name] / predicted["at least"], 2),
        }
    rates = {"GFLOP/s": round(device.flops / 1e9, 1), "GB/s": round(device.bandwidth / 1e9, 1)}
    print_table(f"This processor ({rates}), {shape}, float32", rows)
    return {"rates": rates, "shape": shape, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=DEVICES, help="rates from the data sheet, bfloat16")
    parser.add_argument("--flops", type=float, help="TFLOP/s that large products reach, instead of --device")
    parser.add_argument("--bandwidth", type=float, help="TB/s of the memory, with --flops")
    parser.add_argument("--tokens", type=int, help="default 8192 on paper, 512 on this processor")
    parser.add_argument("--width", type=int, help="of the hidden states, default 4096 and 768")
    parser.add_argument("--vocab", type=int, help="default 128256 and 50257")
    parser.add_argument("--rounds", type=int, default=3, help="measurements on this processor, whose median is taken")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    if (args.flops is None) != (args.bandwidth is None):
        parser.error("give --flops and --bandwidth together.")
    if args.device and args.flops is not None:
        parser.error("give --device, or --flops and --bandwidth, not both.")
    for name in ("flops", "bandwidth", "tokens", "width", "vocab", "rounds"):
        if (value := getattr(args, name)) is not None and value <= 0:
            parser.error(f"--{name} must be greater than 0, got {value:g}.")
    device = DEVICES.get(args.device or "")
    if args.flops is not None:
        device = Device(args.flops * 1e12, args.bandwidth * 1e12)
    default = (512, 768, 50257) if device is None else (8192, 4096, 128256)
    tokens, width, vocab = (
        given or usual for given, usual in zip((args.tokens, args.width, args.vocab), default, strict=True)
    )
    shape, record = (tokens, width, vocab), dict[str, Any](provenance("roofline"))
    if device is None:
        record["checked"] = checked_here(shape, args.rounds)
    else:
        record |= {"device": vars(device), "shape": shape, "milliseconds": on_paper(shape, device)}
        print_table(
            f"On paper, {args.device or 'given rates'}, {shape}, bfloat16, milliseconds", record["milliseconds"]
        )
    write_json(args.json, record)


if __name__ == "__main__":
    main()
