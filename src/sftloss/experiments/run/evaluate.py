"""Common metrics of a trained arm: from its predictions of held-out tokens, and from the answers it generates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sftloss.data import Example
from sftloss.data.tasks import check_answer, question, reference_answer
from sftloss.experiments.experiment import Experiment
from sftloss.experiments.metrics import (
    Metric,
    end_reliability,
    evaluate_tokens,
    forgetting,
    output_metrics,
    reliability,
    token_metrics,
)
from sftloss.experiments.metrics.generation import Generated, Sampling, generate
from sftloss.experiments.run.material import EncodedRows
from sftloss.experiments.run.results import Answer, TokenScores

_GREEDY = ("exact_match", "abstains_unknown", "abstains_known")


def evaluated(
    experiment: Experiment, model: Any, tokenizer: Any, rows: EncodedRows, seed: int
) -> tuple[dict[str, Any], tuple[Answer, ...]]:
    """One forward pass, one greedy answer and `experiment.samples` sampled answers for each row.

    Returns:
        Fields of :class:`ArmResult`, and the answers.
    """
    samples, limit = experiment.samples, experiment.max_new_tokens
    table = evaluate_tokens(model, tokenizer, rows.examples)
    greedy = generate(model, tokenizer, rows.examples, Sampling(max_new_tokens=limit))
    sampled = greedy
    if samples:
        sampled = generate(model, tokenizer, rows.examples, Sampling(samples, limit, experiment.temperature, seed))
    best, drawn = output_metrics(greedy, rows.records), output_metrics(sampled, rows.records)
    if samples and "exact_match" in drawn:
        drawn["sample_match"] = drawn["exact_match"]
    by_row = [sampled[i : i + max(1, samples)] for i in range(0, len(sampled), max(1, samples))]
    fields = {
        "metrics": {**token_metrics(table), **drawn, **{name: best[name] for name in _GREEDY if name in best}},
        "reliability": reliability(table),
        "end_reliability": end_reliability(table),
        "scores": TokenScores(table.example.astype(np.int32), table.nll.astype(np.float32), table.is_top1),
        "lengths": tuple(tuple(one.length for one in group) for group in by_row),
        "reference_lengths": tuple(one.reference_length for one in greedy),
        "is_sampled": samples > 0,
    }
    return fields, tuple(_answer(rows, i, one, by_row[i] if samples else ()) for i, one in enumerate(greedy))


def _answer(rows: EncodedRows, i: int, greedy: Generated, samples: Sequence[Generated]) -> Answer:
    record = rows.records[i]
    score = check_answer(record, question(record), greedy.text)
    return Answer(question(record), reference_answer(record), greedy.text, tuple(one.text for one in samples), score)


def held_out_loss(model: Any, tokenizer: Any, examples: Sequence[Example]) -> float:
    """Mean loss of held-out tokens, nats."""
    return float(np.mean(evaluate_tokens(model, tokenizer, examples).nll))


def drift_metrics(before: Any, after: Any, tokenizer: Any, rows: EncodedRows) -> dict[str, Metric]:
    """How far training moved the model on rows of another kind."""
    loss = token_metrics(evaluate_tokens(after, tokenizer, rows.examples))["token_nll"]
    return {"forget_nll": loss, **forgetting(before, after, tokenizer, rows.examples)}
