"""The analysis beside the bare forward pass it needs: tokens per second as ratios taken side by side, and peak memory.

    python -m benchmarks.analyze                                  # GPT-2 small, random weights, 2 losses measured
    python -m benchmarks.analyze --json benchmarks/results/analyze_cpu.json
    python -m benchmarks.analyze --skip-memory --rounds 3

Speed: the bare forward is ``model(input_ids).logits`` as anyone would run it, on the very batches the analysis takes;
the analysis is the whole of `measure`, with every token a target and the table on disk. The contenders run in turn,
A B C A B C, in one process; ratios of wall time, and of processor time, which other work on the machine disturbs less.
Memory: peak resident size of measuring (a tiny model) and of describing (a written table),
each in a process of its own, at 1, 10 and 100 times the rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.provenance import provenance
from sftloss.analysis import MeasuredTable, Settings, describe_signal, measure
from sftloss.data import batches
from sftloss.data.examples import Batch, Example, Origin
from sftloss.decoder import open_decoder
from sftloss.objectives import objective

ROOT = Path(__file__).resolve().parents[1]
LOSSES: dict[str, tuple[str, ...]] = {
    "no objective": (),
    "cross_entropy": ("cross_entropy",),
    "+ focal": ("cross_entropy", "focal(gamma=2)"),
    "+ dft": ("cross_entropy", "dft"),
    "+ z_loss": ("cross_entropy", "cross_entropy + 1e-4 * z_loss"),
    "+ label_smoothing": ("cross_entropy", "label_smoothing(epsilon=0.1)"),
    "+ entropy": ("cross_entropy", "cross_entropy + 0.1 * entropy_bonus"),
}


def gpt2_small() -> Any:
    """The shape of GPT-2 small with random weights, from its configuration alone."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config()).eval()


def tiny() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=32, n_layer=1, n_head=2)).eval()


def examples(count: int, length: int, vocab: int) -> Iterator[Example]:
    """Random tokens, all of them trained: the most work a token can be. 97 distinct rows, repeated."""
    generator = torch.Generator().manual_seed(0)
    held = [torch.randint(5, vocab, (length - row % 7,), generator=generator) for row in range(min(count, 97))]
    for row in range(count):
        ids = held[row % len(held)]
        ones = torch.ones(len(ids))
        is_end = torch.arange(len(ids)) == len(ids) - 1
        origin = Origin("data.jsonl", row, row + 1)
        yield Example(ids, ones.to(torch.int8), ones, is_end, origin, "abc"[row % 3], "Latin", None, 0, (1 + row // 2,))


def bare(model: Any, cut: list[Batch]) -> None:
    with torch.no_grad():
        for batch in cut:
            assert model(batch.input_ids).logits is not None


def analysis(decoder: Any, data: list[Example], losses: Iterable[str], cut: Callable[..., Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        measure(decoder, data, {name: objective(name) for name in losses}, Path(directory) / "t", batch=cut)


def speed(rounds: int, count: int, length: int, tokens_per_batch: int) -> dict[str, Any]:
    model = gpt2_small()
    data = list(examples(count, length, model.config.vocab_size))
    tokens = sum(len(example.input_ids) for example in data)
    cut = partial(batches, pad_id=0, tokens_per_batch=tokens_per_batch)
    decoder, held = open_decoder(model), list(cut(iter(data)))
    runs: dict[str, Callable[[], None]] = {"bare forward": partial(bare, model, held)}
    runs |= {name: partial(analysis, decoder, data, losses, cut) for name, losses in LOSSES.items()}
    clocks = {"wall": time.perf_counter, "processor": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {name: {clock: [] for clock in clocks} for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = {clock: read() for clock, read in clocks.items()}
            run()
            if turn:  # the first round warms up
                for clock, read in clocks.items():
                    seconds[name][clock].append(read() - start[clock])
    rows: dict[str, Any] = {}
    for name, taken in seconds.items():
        rows[name] = {"tokens_per_second_median": round(tokens / statistics.median(taken["wall"]), 1)}
        for clock in clocks:
            ratios = [b / a for a, b in zip(taken[clock], seconds["bare forward"][clock], strict=True)]
            spread = (statistics.median(ratios), min(ratios), max(ratios))
            rows[name][f"speed_over_bare_{clock}: median, min, max"] = [round(ratio, 3) for ratio in spread]
        print(f"{name:20s} {rows[name]}", flush=True)
    shape = {"examples": count, "length": length, "tokens": tokens, "tokens_per_batch": tokens_per_batch}
    return {"model": "GPT-2 small, 124M, random weights, float32", **shape, "rounds": rounds, "contenders": rows}


def peak_mib() -> float:
    """Of this process alone: `ru_maxrss` would begin at the peak of the process that started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure_here(count: int, directory: str) -> dict[str, float]:
    """Measure `count` examples with a tiny model; the table stays for `describe_here`."""
    decoder = open_decoder(tiny())
    losses = {name: objective(name) for name in ("cross_entropy", "focal(gamma=2)")}
    cut = partial(batches, pad_id=0, tokens_per_batch=4096)
    for size, place in ((1000, directory + "-warm"), (count, directory)):
        measure(decoder, examples(size, 24, 512), losses, place, batch=cut, settings=Settings(part_tokens=100_000))
        if size == 1000:
            before = peak_mib()
    return {"examples": count, "before_mib": before, "peak_mib": peak_mib()}


def describe_here(directory: str) -> dict[str, float]:
    """Describe a table that is there."""
    describe_signal(MeasuredTable(Path(directory + "-warm")))
    before, start = peak_mib(), time.perf_counter()
    describe_signal(MeasuredTable(Path(directory)))
    return {"before_mib": before, "peak_mib": peak_mib(), "seconds": time.perf_counter() - start}


def memory(counts: tuple[int, ...]) -> dict[str, Any]:
    """Peaks beyond what a small run of the same process needed, by number of examples."""
    rows: dict[str, Any] = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            table = f"{folder}/t"
            for name, call in (
                ("measure", f"measure_here({count}, {table!r})"),
                ("describe", f"describe_here({table!r})"),
            ):
                code = f"import json; from benchmarks.analyze import *; print(json.dumps({call}))"
                done = subprocess.run(
                    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
                )
                told = json.loads(done.stdout.splitlines()[-1])
                rows.setdefault(name, {})[str(count)] = {key: round(value, 1) for key, value in told.items()}
                print(name, count, rows[name][str(count)], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--tokens-per-batch", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--memory-examples", type=int, default=1000, help="1x; 10x and 100x follow")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    told = provenance("analyze")
    found: dict[str, Any] = {"speed": speed(args.rounds, args.examples, args.length, args.tokens_per_batch)}
    if not args.skip_memory:
        found["memory"] = memory(tuple(args.memory_examples * times for times in (1, 10, 100)))
    if args.json:
        args.json.write_text(json.dumps({**told, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
