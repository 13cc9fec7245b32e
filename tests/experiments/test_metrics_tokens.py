"""The token table against plain logits, and calibration against its definition and known cases."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from sftloss.data import encode
from sftloss.data.demo import demo_model, demo_records, demo_tokenizer
from sftloss.decoder import open_decoder
from sftloss.errors import DataError
from sftloss.experiments.metrics import TokenTable, end_reliability, evaluate_tokens, reliability, token_metrics
from sftloss.experiments.metrics.tokens import equal_mass, position_bins


@lru_cache
def demo():
    return open_decoder(demo_model()), demo_tokenizer(), demo_records(1, count=40)


def by_hand() -> dict[str, list[float]]:
    """Every column from whole float64 distributions, one row at a time, unpadded."""
    decoder, tokenizer, rows = demo()
    found: dict[str, list[float]] = {name: [] for name in ("nll", "confidence", "entropy", "brier", "end_probability")}
    for row in rows:
        example = encode(row, tokenizer)
        with torch.no_grad():
            logits = decoder.model(input_ids=example.input_ids[None]).logits[0].double()
        for at in torch.nonzero(example.weights > 0)[:, 0].tolist():
            p, target = logits[at - 1].softmax(0), int(example.input_ids[at])
            one = torch.zeros_like(p).index_fill_(0, torch.tensor([target]), 1.0)
            found["nll"].append(-float(p[target].log()))
            found["confidence"].append(float(p.max()))
            found["entropy"].append(float(torch.special.entr(p).sum()))
            found["brier"].append(float((p - one).square().sum()))
            found["end_probability"].append(float(p[tokenizer.eos_token_id]))
    return found


@pytest.mark.parametrize("has_head", [True, False])
def test_every_column_is_what_whole_distributions_say(has_head):
    decoder, tokenizer, rows = demo()
    table = evaluate_tokens(decoder if has_head else replace(decoder, head=None), tokenizer, rows)
    for name, values in by_hand().items():
        # float32 logits of size 10 in another batch: 1e-5 of a probability, and of a log-probability
        np.testing.assert_allclose(getattr(table, name), values, rtol=1e-4, atol=2e-5, err_msg=name)
    lengths = [int((encode(row, tokenizer).weights > 0).sum()) for row in rows]
    assert table.lengths.tolist() == lengths and table.examples == len(rows)
    assert table.position.tolist() == [i for length in lengths for i in range(length)]
    assert table.is_end.sum() == len(rows)


def test_table_does_not_depend_on_the_batches():
    decoder, tokenizer, rows = demo()
    one, many = (evaluate_tokens(decoder, tokenizer, rows, tokens_per_batch=n) for n in (1, 10_000))
    # float32 products of other shapes
    np.testing.assert_allclose(one.nll, many.nll, rtol=1e-4, atol=2e-5)
    assert (one.example == many.example).all()


def test_nothing_to_evaluate_is_said():
    decoder, tokenizer, _ = demo()
    with pytest.raises(DataError, match="there is no held-out row"):
        evaluate_tokens(decoder, tokenizer, [])


def made(confidence, is_right, example=None, **columns) -> TokenTable:
    """A table in which only what a test names matters."""
    confidence = np.asarray(confidence, dtype=float)
    example = np.arange(len(confidence)) if example is None else np.asarray(example)
    zeros = np.zeros(len(confidence))
    filled = {"position": zeros.astype(int), "nll": zeros, "entropy": zeros, "brier": zeros, "end_probability": zeros}
    filled["is_end"] = zeros.astype(bool)
    filled |= {name: np.asarray(values) for name, values in columns.items()}
    return TokenTable(
        example=example,
        confidence=confidence,
        is_top1=np.asarray(is_right, dtype=bool),
        **filled,
        examples=int(example.max()) + 1,
    )


def test_means_over_tokens_and_over_examples_are_two_numbers():
    table = made([1.0] * 3, [True, True, False], [0, 0, 1], nll=[1.0, 2.0, 6.0])
    found = {name: metric.value() for name, metric in token_metrics(table).items()}
    assert (found["token_nll"], found["example_nll"]) == (3.0, 3.75)
    assert found["token_accuracy"] == pytest.approx(2 / 3)


def test_ece_is_its_definition_on_random_numbers():
    random = np.random.default_rng(0)
    confidence, is_right = random.random(997), random.random(997) < 0.5
    table = made(confidence, is_right, random.integers(0, 30, 997))
    order = np.argsort(confidence)
    bins = np.array_split(order, 10)
    expected = sum(abs(confidence[b].mean() - is_right[b].mean()) * len(b) for b in bins) / 997
    # a quantile may put a token at an edge into the other bin: nine tokens of 997, each worth at most 2/997
    assert token_metrics(table, bins=10)["ece"].value() == pytest.approx(expected, abs=9 * 2 / 997)


def test_ece_is_near_zero_for_a_calibrated_model_and_the_excess_for_an_overconfident_one():
    random = np.random.default_rng(1)
    confidence = random.uniform(0.3, 0.9, 40_000)
    calibrated = made(confidence, random.random(40_000) < confidence)
    overconfident = made(confidence + 0.1, random.random(40_000) < confidence)
    # the noise of 15 bins: sqrt(2/pi * 0.24 * 15 / 40000) = 0.0076
    assert token_metrics(calibrated)["ece"].value() < 0.015
    assert token_metrics(overconfident)["ece"].value() == pytest.approx(0.1, abs=0.01)


def test_bins_hold_equally_many_and_equal_confidences_share_one():
    codes = equal_mass(np.random.default_rng(2).random(1000), 8)
    assert np.bincount(codes).tolist() == [125] * 8
    assert np.unique(equal_mass(np.array([1.0] * 90 + [0.5] * 10), 10)).tolist() == [0, 1]
    with pytest.raises(ValueError, match="equal_mass: bins"):
        equal_mass(np.ones(3), 0)


def test_reliability_counts_every_token_once():
    random = np.random.default_rng(3)
    table = made(random.random(500), random.random(500) < 0.5)
    bins = reliability(table)
    assert sum(b.tokens for b in bins) == 500 and len(bins) == 15
    ece = sum(abs(b.predicted - b.observed) * b.tokens for b in bins) / 500
    assert token_metrics(table)["ece"].value() == pytest.approx(ece, rel=1e-12)


def test_a_model_that_ends_too_early_has_a_ratio_above_one():
    """Answers of three tokens that end at the third; the model foresees 0.5 of an end at each."""
    count = 50
    table = made(
        np.ones(3 * count), np.ones(3 * count), np.repeat(np.arange(count), 3), position=np.tile([0, 1, 2], count),
        end_probability=np.full(3 * count, 0.5), is_end=np.tile([False, False, True], count),
    )  # fmt: skip
    found = token_metrics(table)
    # 1.5 ends foreseen for one; half an end too many at two positions and half too few at the third
    assert found["eos_calibration"].value() == pytest.approx(1.5) and found["eos_ece"].value() == pytest.approx(1.5)
    assert [(b.low, b.predicted, b.observed) for b in end_reliability(table)] == [(0, 0.5, 0), (1, 0.5, 0), (2, 0.5, 1)]


def test_positions_have_bins_that_grow():
    codes = position_bins(np.arange(5000))
    assert codes[:5].tolist() == [0, 1, 2, 3, 4] and (np.diff(codes) >= 0).all() and codes[-1] == 18
