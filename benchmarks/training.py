"""One optimizer step of a Trainer: the model's own loss, ours, and TRL's fused head, side by side in one process.

    python -m benchmarks.training                        # V=32000 and V=128256, one micro-batch and four
    python -m benchmarks.training --vocab 32000 --accumulation 1 --rounds 20

A step is that of a Trainer: it counts the items of the window, runs `training_step` for each micro-batch and the
optimizer (SGD, so that little time is spent outside the loss), and drops the gradients. The contenders take turns, each
round in another order. Wall time and the time of the process are both given, because the machine may have other work.
Memory is the peak of a few steps in a process of its own, beyond what was resident before and beyond the gradients. The
table also has the largest tensor that any operation makes and that has not the size of a parameter, and the size of the
logits. (256 tokens of logits have the size of the head where that is 256 wide: use another width there.)
Figures in the file of `--json` for other shapes, or for the other choice of `--what`, stay.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.common import (
    CLOCKS,
    Seconds,
    in_fresh_process,
    print_table,
    provenance,
    ratios,
    resident_mib,
    timed,
    write_json,
)

CONTENDERS = ("plain", "ours", "trl")
BOUND = 1.02  # of the time of the model's own loss
Shape = tuple[int, int, int, int]  # vocabulary, micro-batches, rows, columns


def contender(name: str, shape: Shape, width: int, layers: int) -> tuple[Callable[[], float], int, set[int]]:
    """One optimizer step, which gives its loss; the bytes of the model's gradients; the sizes among them."""
    import transformers

    vocab, accumulation, rows, columns = shape
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 64}
    config = transformers.LlamaConfig(vocab_size=vocab, tie_word_embeddings=False, **sizes, **heads)
    model = transformers.LlamaForCausalLM(config)
    trainer = _trainer(name, model, accumulation, rows)
    trainer.create_optimizer()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, vocab, (accumulation, rows, columns), generator=generator)
    window = [{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": i.clone()} for i in ids]
    model.train()
    trainer.current_gradient_accumulation_steps = accumulation

    def run() -> float:
        batches, items = trainer.get_batch_samples(iter(window), accumulation, torch.device("cpu"))
        losses = [float(trainer.training_step(model, dict(batch), items)) for batch in batches]
        trainer.optimizer.step()
        model.zero_grad()
        return sum(losses)

    sizes = [4 * p.numel() for p in model.parameters()]
    return run, sum(sizes), set(sizes)


def _trainer(name: str, model: Any, accumulation: int, rows: int) -> Any:
    import transformers

    from sftloss.training import with_loss

    options = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": accumulation,
        "optim": "sgd",
        "learning_rate": 1e-3,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
    }
    if name != "trl":
        cls = transformers.Trainer if name == "plain" else with_loss(transformers.Trainer, "cross_entropy")
        return cls(model=model, args=transformers.TrainingArguments(**options))
    import trl
    from datasets import Dataset

    from sftloss.data.demo import demo_tokenizer

    options |= {"max_length": None, "activation_checkpointing": False}
    data = Dataset.from_dict({"input_ids": [[5, 6]], "labels": [[5, 6]]})
    return trl.SFTTrainer(
        model=model, args=trl.SFTConfig(**options), train_dataset=data, processing_class=demo_tokenizer()
    )


def times(shape: Shape, rounds: int, width: int, layers: int) -> Seconds:
    """Return the seconds of each step, and check that the contenders have the same losses."""
    losses: dict[str, list[float]] = {name: [] for name in CONTENDERS}

    def step(name: str) -> Callable[[], None]:
        run = contender(name, shape, width, layers)[0]
        return lambda: losses[name].append(run())

    seconds = timed({name: step(name) for name in CONTENDERS}, rounds)
    for values in zip(*losses.values(), strict=True):  # the three must be doing the same work
        assert max(values) - min(values) < 1e-4 * values[0], losses
    return seconds


def memory(name: str, shape: Shape, width: int, layers: int) -> dict[str, float]:
    """Return the figures of `measure_here` in a fresh process."""
    return in_fresh_process("training", f"measure_here({name!r}, {shape!r}, {width}, {layers})")


class Largest(TorchDispatchMode):
    """The largest storage among the results of operations, in bytes, but for those of a parameter's size."""

    def __init__(self, sizes: set[int]) -> None:
        super().__init__()
        self.sizes, self.bytes = sizes, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, torch.Tensor) and (size := made.untyped_storage().nbytes()) not in self.sizes:
                self.bytes = max(self.bytes, size)
        return out


def measure_here(name: str, shape: Shape, width: int, layers: int) -> dict[str, float]:
    """Peak resident memory of steps beyond model and gradients, and the largest tensor beside the logits."""
    contender(name, (512, 1, 1, 8), width, layers)[0]()  # load the libraries' code before counting
    run, gradients, sizes = contender(name, shape, width, layers)
    before = resident_mib("VmRSS")
    for _ in range(2):
        run()
    peak = resident_mib("VmHWM") - before - gradients / 2**20
    with Largest(sizes) as largest:
        run()
    vocab, _, rows, columns = shape
    logits = 4 * rows * columns * vocab
    # a chunk of them is 256 tokens' at least, or as many more as take 50 MiB
    chunk = max(64 * 2**20, 4 * 256 * vocab)
    assert name != "ours" or largest.bytes <= min(chunk, logits / 2), f"a tensor of {largest.bytes} bytes"
    mib = {"peak_mib_beyond_gradients": peak, "largest_tensor_mib": largest.bytes / 2**20, "logits_mib": logits / 2**20}
    return {what: round(value, 1) for what, value in mib.items()}


def figures(seconds: Seconds, name: str) -> dict[str, float]:
    """Return medians of a contender's times, and of its ratios to the plain steps of the same round."""
    row = {"seconds_wall_median": round(statistics.median(seconds[name]["wall"]), 3)}
    for clock in CLOCKS:
        spread = ratios(seconds[name][clock], seconds["plain"][clock])
        row |= {f"{clock}_over_plain_{word}": v for word, v in zip(("median", "min", "max"), spread, strict=True)}
    return row


def measured(shape: Shape, args: argparse.Namespace, before: dict[str, Any]) -> dict[str, Any]:
    """Return what `args.what` names, over the figures that were there, and print it as a table."""
    seconds = times(shape, args.rounds, args.width, args.layers) if "time" in args.what else None
    rows = {name: dict(before.get(name, {})) for name in CONTENDERS}
    table: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        if seconds:
            row |= {"rounds": args.rounds, **figures(seconds, name)}
        if "memory" in args.what:
            row |= memory(name, shape, args.width, args.layers)
        spreads = {c: [row.get(f"{c}_over_plain_{word}") for word in ("median", "min", "max")] for c in CLOCKS}
        table[name] = {f"{c} over plain": spread for c, spread in spreads.items() if None not in spread}
        table[name] |= {"peak MiB": row.get("peak_mib_beyond_gradients"), "largest MiB": row.get("largest_tensor_mib")}
        table[name]["logits MiB"] = row.get("logits_mib")
    print_table(f"A step at V={shape[0]}, {shape[1]} micro-batches of {shape[2]} x {shape[3]} tokens", table)
    if seconds:
        ours = rows["ours"]["wall_over_plain_median"]
        print(f"ours over plain {ours}: {'within' if ours <= BOUND else 'ABOVE'} the bound of {BOUND}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, nargs="+", default=[32000, 128256])
    parser.add_argument("--accumulation", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--what", nargs="+", choices=["time", "memory"], default=["time", "memory"])
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    origin = provenance("training", "transformers", "trl")
    is_there = args.json is not None and args.json.exists()
    results = json.loads(args.json.read_text())["results"] if is_there else {}
    for vocab in args.vocab:
        for accumulation in args.accumulation:
            shape = (vocab, accumulation, args.rows, args.columns)
            model = f"width {args.width}, {args.layers} layers"
            name = f"V={vocab}, {model}, {accumulation} micro-batches of {args.rows} x {args.columns} tokens"
            results[name] = {**origin, **measured(shape, args, results.get(name, {}))}
    write_json(args.json, {"results": results})


if __name__ == "__main__":
    main()
