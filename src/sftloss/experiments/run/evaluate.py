"""Common metrics of a trained arm: what it says at held-out tokens, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sftloss.data.tasks import check, question, reference
from sftloss.experiments.metrics import (
    Bin,
    Metric,
    TokenTable,
    end_reliability,
    evaluate_tokens,
    forgetting,
    output_metrics,
    reliability,
    token_metrics,
)
from sftloss.experiments.plan import Plan
from sftloss.experiments.run.generate import Generated, Sampling, generate
from sftloss.experiments.run.material import Rows
from sftloss.experiments.run.results import Answer, TokenScores

_GREEDY = ("exact_match", "abstains_unknown", "abstains_known")


@dataclass(frozen=True)
class Evaluation:
    """Everything that a result holds about one model."""

    metrics: dict[str, Metric]
    reliability: tuple[Bin, ...]
    end_reliability: tuple[Bin, ...]
    scores: TokenScores
    lengths: tuple[tuple[int, ...], ...]
    reference_lengths: tuple[int, ...]
    answers: tuple[Answer, ...]
    is_sampled: bool


def evaluated(plan: Plan, model: Any, tokenizer: Any, rows: Rows, seed: int) -> Evaluation:
    """Metrics from one forward pass, one greedy answer and `plan.samples` sampled answers for each row."""
    table = evaluate_tokens(model, tokenizer, rows.examples)
    greedy = generate(model, tokenizer, rows.examples, Sampling(max_new_tokens=plan.max_new_tokens))
    sampled = greedy
    if plan.samples:
        manner = Sampling(plan.samples, plan.max_new_tokens, plan.temperature, seed)
        sampled = generate(model, tokenizer, rows.examples, manner)
    best, drawn = output_metrics(greedy, rows.records), output_metrics(sampled, rows.records)
    if plan.samples and "exact_match" in drawn:
        drawn["sample_match"] = drawn["exact_match"]
    metrics = {**token_metrics(table), **drawn, **{name: best[name] for name in _GREEDY if name in best}}
    by_row = [sampled[i : i + max(1, plan.samples)] for i in range(0, len(sampled), max(1, plan.samples))]
    return Evaluation(
        metrics,
        reliability(table),
        end_reliability(table),
        _scores(table),
        tuple(tuple(one.length for one in group) for group in by_row),
        tuple(one.reference_length for one in greedy),
        tuple(_answer(rows, i, one, by_row[i] if plan.samples else ()) for i, one in enumerate(greedy)),
        plan.samples > 0,
    )


def _scores(table: TokenTable) -> TokenScores:
    return TokenScores(table.example.astype(np.int32), table.nll.astype(np.float32), table.is_top1)


def _answer(rows: Rows, i: int, greedy: Generated, samples: Sequence[Generated]) -> Answer:
    record = rows.records[i]
    score = check(record, question(record), greedy.text)
    return Answer(question(record), reference(record), greedy.text, tuple(one.text for one in samples), score)


def curve_point(model: Any, tokenizer: Any, rows: Rows) -> float:
    """Mean loss of held-out tokens, nats."""
    return float(np.mean(evaluate_tokens(model, tokenizer, rows.examples).nll))


def forgotten(before: Any, after: Any, tokenizer: Any, rows: Rows) -> dict[str, Metric]:
    """What training did to rows of another kind."""
    loss = token_metrics(evaluate_tokens(after, tokenizer, rows.examples))["token_nll"]
    return {"forget_nll": loss, **forgetting(before, after, tokenizer, rows.examples)}
