"""The analysis beside the bare forward pass it needs: tokens per second as ratios taken side by side, and peak memory.

    python -m benchmarks.analyze                                  # GPT-2 small, random weights, 2 losses measured
    python -m benchmarks.analyze --json benchmarks/results/analyze_cpu.json
    python -m benchmarks.analyze --skip-memory --rounds 3
    python -m benchmarks.analyze --data alpaca.json --examples 80 --rounds 2    # a real model and real rows

Speed: the bare forward is ``model(input_ids).logits`` as anyone would run it, on the very batches the analysis takes;
the analysis is the whole of `measure`, with the table on disk, and every token a target where rows are made up. With
``--data`` the model is SmolLM2-135M-Instruct and the answers of the file are the targets. The contenders take turns in
one process, each round in another order. The figures are ratios of wall time, and of processor time, which other work
on the machine disturbs less. Memory: peak resident size of measuring with a tiny model and of describing a written
table, each in a process of its own, at 1, 10 and 100 times the rows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import CLOCKS, in_fresh_process, print_table, provenance, ratios, resident_mib, timed, write_json
from sftloss.analysis import MeasuredTable, Settings, describe_signal, measure
from sftloss.data import Examples, batches, read_records
from sftloss.data.examples import Batch, Example, Origin
from sftloss.data.tokenizer import pad_id_of
from sftloss.decoder import load_model, open_decoder
from sftloss.objectives import objective

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
    """Yield random tokens, all of them trained, which is the most work. There are 97 distinct rows, repeated."""
    generator = torch.Generator().manual_seed(0)
    distinct = [torch.randint(5, vocab, (length - row % 7,), generator=generator) for row in range(min(count, 97))]
    for row in range(count):
        ids = distinct[row % len(distinct)]
        ones = torch.ones(len(ids))
        is_end = torch.arange(len(ids)) == len(ids) - 1
        origin = Origin("data.jsonl", row, row + 1)
        yield Example(ids, ones.to(torch.int8), ones, is_end, origin, "abc"[row % 3], "Latin", None, 0, (1 + row // 2,))


def bare(model: Any, cut: list[Batch]) -> None:
    with torch.no_grad():
        for batch in cut:
            given = {name: getattr(batch, name) for name in ("input_ids", "attention_mask", "position_ids")}
            assert model(**given).logits is not None


def analysis(decoder: Any, data: list[Example], losses: Iterable[str], cut: Callable[..., Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        measure(decoder, data, {name: objective(name) for name in losses}, Path(directory) / "t", batch=cut)


def speed(rounds: int, count: int, length: int, tokens_per_batch: int, source: str | None) -> dict[str, Any]:
    """Return tokens per second of the analysis, as ratios to the bare forward pass of the same round."""
    if source is None:
        model, pad_id, title = gpt2_small(), 0, "GPT-2 small, 124M, random weights, float32"
        data = list(examples(count, length, model.config.vocab_size))
    else:
        model, tokenizer = load_model("smollm2", dtype=torch.float32)
        pad_id, title = pad_id_of(tokenizer), "SmolLM2-135M-Instruct, float32"
        data = list(islice(Examples(read_records(source), tokenizer), count))
    tokens = sum(len(example.input_ids) for example in data)
    cut = partial(batches, pad_id=pad_id, tokens_per_batch=tokens_per_batch)
    decoder, batches_of_data = open_decoder(model), list(cut(iter(data)))
    runs: dict[str, Callable[[], None]] = {"bare forward": partial(bare, model, batches_of_data)}
    chosen = LOSSES if source is None else {"cross_entropy": LOSSES["cross_entropy"]}
    runs |= {name: partial(analysis, decoder, data, losses, cut) for name, losses in chosen.items()}
    seconds = timed(runs, rounds)
    rows: dict[str, dict[str, Any]] = {}
    table: dict[str, dict[str, Any]] = {}
    for name, taken in seconds.items():
        spread = {clock: ratios(seconds["bare forward"][clock], taken[clock]) for clock in CLOCKS}
        per_second = round(tokens / statistics.median(taken["wall"]), 1)
        rows[name] = {"tokens_per_second_median": per_second}
        rows[name] |= {f"speed_over_bare_{clock}: median, min, max": spread[clock] for clock in CLOCKS}
        table[name] = {"tokens / s": per_second} | {f"of the bare speed, {clock}": spread[clock] for clock in CLOCKS}
    print_table(f"Speed of the analysis, {tokens} tokens, {rounds} rounds", table)
    shape = {"examples": len(data), "tokens": tokens, "tokens_per_batch": tokens_per_batch}
    return {"model": title, **shape, "rounds": rounds, "load": round(os.getloadavg()[0], 1), "contenders": rows}


def measure_here(count: int, directory: str) -> dict[str, float]:
    """Measure `count` examples with a tiny model; the table stays for `describe_here`."""
    decoder = open_decoder(tiny())
    losses = {name: objective(name) for name in ("cross_entropy", "focal(gamma=2)")}
    cut = partial(batches, pad_id=0, tokens_per_batch=4096)
    for size, place in ((1000, directory + "-warm"), (count, directory)):
        measure(decoder, examples(size, 24, 512), losses, place, batch=cut, settings=Settings(part_tokens=100_000))
        if size == 1000:
            before = resident_mib("VmHWM")
    return {"examples": count, "before_mib": before, "peak_mib": resident_mib("VmHWM")}


def describe_here(directory: str) -> dict[str, float]:
    """Describe a table that is there."""
    describe_signal(MeasuredTable(Path(directory + "-warm")))
    before, start = resident_mib("VmHWM"), time.perf_counter()
    describe_signal(MeasuredTable(Path(directory)))
    return {"before_mib": before, "peak_mib": resident_mib("VmHWM"), "seconds": time.perf_counter() - start}


def memory(counts: tuple[int, ...]) -> dict[str, Any]:
    """Return peaks beyond what a small run of the same process needed, by number of examples."""
    rows: dict[str, Any] = {"measure": {}, "describe": {}}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            place = f"{folder}/t"
            calls = {"measure": f"measure_here({count}, {place!r})", "describe": f"describe_here({place!r})"}
            for name, call in calls.items():
                figures = in_fresh_process("analyze", call)
                rows[name][str(count)] = {key: round(value, 1) for key, value in figures.items()}
    lines = {f"{name}, {count} examples": figures for name, by in rows.items() for count, figures in by.items()}
    print_table("Peak memory", lines)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--data", help="file with answers; the model is then SmolLM2, and memory is left out")
    parser.add_argument("--tokens-per-batch", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--memory-examples", type=int, default=1000, help="1x; 10x and 100x follow")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record: dict[str, Any] = dict(provenance("analyze"))
    record["speed"] = speed(args.rounds, args.examples, args.length, args.tokens_per_batch, args.data)
    if not (args.skip_memory or args.data):
        record["memory"] = memory(tuple(args.memory_examples * times for times in (1, 10, 100)))
    write_json(args.json, record)


if __name__ == "__main__":
    main()
