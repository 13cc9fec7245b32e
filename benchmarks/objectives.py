"""The time of every objective over cross-entropy's: one pass, forward and backward, as ratios.

    python -m benchmarks.objectives
    python -m benchmarks.objectives --rounds 1 --tokens 64 --width 64 --vocab 2000     # a quick look

Each run of an objective stands right after one of cross-entropy, and its ratio is to that one, so that a change of the
machine's load meets both. The order of the objectives is another one each round. Times are processor times, which other
work on the machine disturbs least. Objectives that read a tensor of the batch get one at random, 32 candidates a token.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import print_table, provenance, write_json
from sftloss.loss import weighted_loss
from sftloss.objectives import OBJECTIVES, cross_entropy, descriptions, extras_of, sequence_values_of
from sftloss.statistics import Head, Plan

CANDIDATES = 32


def extras(function: Callable[..., Tensor], tokens: int, vocab: int) -> Mapping[str, Tensor]:
    """Return the batch tensors that an objective reads, at random."""
    generator = torch.Generator().manual_seed(1)
    drawn: dict[str, Tensor] = {}
    for name in (*extras_of(function), *sequence_values_of(function)):
        size = (tokens, CANDIDATES) if "candidate" in name else (tokens,)
        drawn[name] = -4 * torch.rand(size, generator=generator)
        if name == "candidate_ids":
            drawn[name] = torch.randint(0, vocab, size, generator=generator)
    return drawn


def measure(tokens: int, width: int, vocab: int, rounds: int, plan: Plan) -> dict[str, list[float]]:
    """Return the ratios of each objective, one a round; the first round warms up and is not counted."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).requires_grad_()
    weight = torch.randn(vocab, width, generator=generator).mul_(width**-0.5).requires_grad_()
    targets = torch.randint(0, vocab, (tokens,), generator=generator)
    coefficients = torch.full((tokens,), 1 / tokens)
    read = {name: extras(function, tokens, vocab) for name, function in OBJECTIVES.items()}

    def seconds(function: Callable[..., Tensor], tensors: Mapping[str, Tensor]) -> float:
        start = time.process_time()
        loss = weighted_loss(hidden, Head(weight), targets, coefficients, function, extras=tensors, plan=plan)[0]
        torch.autograd.grad(loss, (hidden, weight))
        return time.process_time() - start

    order, shuffler = list(OBJECTIVES), random.Random(0)
    ratios: dict[str, list[float]] = {name: [] for name in order}
    seconds(cross_entropy, {})
    for _ in range(rounds):
        shuffler.shuffle(order)
        for name in order:
            plain = seconds(cross_entropy, {})
            ratios[name].append(seconds(OBJECTIVES[name], read[name]) / plain)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mode", choices=("one_pass", "two_pass"), default="one_pass")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    setting = {name: getattr(args, name) for name in ("tokens", "width", "vocab", "rounds", "mode")}
    origin = {**provenance("objectives"), "setting": setting}
    ratios = measure(args.tokens, args.width, args.vocab, args.rounds, Plan(args.mode))
    reads = {entry.name: ", ".join(entry.reads) for entry in descriptions()}
    rows = {
        name: {
            "over cross-entropy": [round(value, 3) for value in (statistics.median(values), min(values), max(values))],
            "reads": reads[name],
        }
        for name, values in ratios.items()
    }
    print_table(f"{args.mode}, {args.tokens} x {args.width} x {args.vocab}, processor time", rows)
    write_json(args.json, {**origin, "objectives": rows})


if __name__ == "__main__":
    main()
