"""Fine-tune a real model with the gradient filter and without, on the same batches, and compare held-out losses.

    python -m benchmarks.finetuning --data alpaca.json --json benchmarks/results/finetuning_cpu.json
    python -m benchmarks.finetuning --steps 60

The model is SmolLM2-135M-Instruct (its package must be installed) with LoRA adapters on every linear layer and the
output head. The runs differ in the tolerance of the gradients only. One more exact run has another seed for adapters
and order of the rows: it shows how much a seed changes. Differences are paired by held-out row. Their intervals are
the studentized bootstrap's over the rows, at 95 %: they hold for other rows, not for other seeds or data.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import print_table, provenance, write_json
from benchmarks.filter import python_rows
from sftloss import fine_tune
from sftloss.data import Examples, read_records
from sftloss.data.tokenizer import load_tokenizer
from sftloss.decoder import load_model
from sftloss.experiments.metrics import evaluate_tokens
from sftloss.finetune import Lora, Recipe
from sftloss.models import model_folder
from sftloss.numbers.studentized import PLAIN, studentized

HELD_OUT = 200
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")


def row_losses(model: Any, tokenizer: Any, examples: list[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the summed cross-entropy and the number of answer tokens of each row."""
    table = evaluate_tokens(model, tokenizer, examples)
    return table.sum(table.nll), table.lengths


def trained(recipe: Recipe, tokenizer: Any, train: list[Any], held_out: list[Any]) -> dict[str, Any]:
    """Return the held-out losses of a run by row, and what was filtered."""
    outcome = fine_tune(recipe, tokenizer=tokenizer, rows=train)
    losses, _ = row_losses(outcome.model, tokenizer, held_out)
    return {"losses": losses, "filter": outcome.facts["filter"]}


def difference(losses: NDArray[Any], others: NDArray[Any], tokens: NDArray[Any]) -> dict[str, float]:
    """Return the difference in nats a token and the ends of its 95 % interval over the rows."""
    columns = np.stack([losses - others, tokens], axis=1)[:, None, :]
    estimate = studentized(columns, lambda sums: sums[..., 0] / sums[..., 1], np.arange(len(tokens)), scale=PLAIN)[0]
    assert estimate.interval is not None
    values = {"less exact": estimate.value, "from": estimate.interval.low, "to": estimate.interval.high}
    return {name: float(f"{value:.2g}") for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="file with answers; by default texts of Python's own library")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--length", type=int, default=64, help="tokens of a row")
    parser.add_argument("--tolerance", type=float, default=2.5e-3)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    tokenizer = load_tokenizer(model_folder("smollm2"))
    records = read_records(python_rows() if args.data is None else args.data)
    examples = list(Examples(records, tokenizer, max_length=args.length))
    held_out, train = examples[:HELD_OUT], examples[HELD_OUT:]
    recipe = Recipe(
        model="smollm2", dtype="float32", device="cpu", batch_size=4, max_steps=args.steps,
        lora=Lora(16, targets=LAYERS), learning_rate=args.learning_rate,
    )  # fmt: skip
    runs = {"exact": {}, "filtered": {"tolerance": args.tolerance}, "exact, another seed": {"seed": 1}}
    before, tokens = row_losses(load_model("smollm2", dtype=recipe.dtype)[0], tokenizer, held_out)
    record: dict[str, Any] = {
        **provenance("finetuning"), "steps": args.steps, "tokens a step": 4 * args.length,
        "tolerance": args.tolerance, "held-out rows": len(held_out), "held-out tokens": int(tokens.sum()),
        "runs": {"before": {"held-out loss": round(before.sum() / tokens.sum(), 4)}},
    }  # fmt: skip
    results: dict[str, dict[str, Any]] = {}
    for name, changes in runs.items():
        fields: dict[str, Any] = vars(recipe) | changes
        results[name] = result = trained(Recipe(**fields), tokenizer, train, held_out)
        row: dict[str, Any] = {"held-out loss": round(result["losses"].sum() / tokens.sum(), 4)}
        row |= {key: float(f"{value:.2g}") for key, value in (result["filter"] or {}).items()}
        if name != "exact":
            row |= difference(result["losses"], results["exact"]["losses"], tokens)
        record["runs"][name] = row
        write_json(args.json, record)
    title = (
        f"{args.steps} steps of {4 * args.length} tokens, {len(held_out)} held-out rows, tolerance {args.tolerance:g}"
    )
    print_table(title, record["runs"])


if __name__ == "__main__":
    main()
