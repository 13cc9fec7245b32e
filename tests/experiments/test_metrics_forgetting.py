"""Drift against the start: torch's own divergence, and nothing where nothing has moved."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import lru_cache

import pytest
import torch

from sftloss.data.demo import demo_model, demo_records, demo_tokenizer
from sftloss.decoder import open_decoder
from sftloss.errors import DataError
from sftloss.experiments.metrics import drift as module
from sftloss.experiments.metrics import evaluate_tokens, forgetting


@lru_cache
def two_models():
    start = demo_model()
    now = copy.deepcopy(start)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in now.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return open_decoder(start), open_decoder(now)


def test_moved_is_torchs_divergence():
    generator = torch.Generator().manual_seed(1)
    old, new = (torch.randn(20, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    targets = torch.randint(9, (20,), generator=generator)
    kl, change, right = module.token_drift(old, new, targets)
    log_old, log_new = old.log_softmax(1), new.log_softmax(1)
    expected = torch.nn.functional.kl_div(log_new, log_old, log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(kl, expected)
    nll = torch.nn.functional.cross_entropy
    torch.testing.assert_close(change, nll(new, targets, reduction="none") - nll(old, targets, reduction="none"))
    assert right.tolist() == ((new.argmax(1) == targets).double() - (old.argmax(1) == targets).double()).tolist()


def test_a_token_outside_the_vocabulary_moves_nothing():
    old = torch.tensor([[0.0, 1.0, float("-inf")]])
    kl, change, _ = module.token_drift(old, old, torch.tensor([0]))
    assert kl.item() == 0.0 == change.item()


@pytest.mark.parametrize("has_head", [True, False])
def test_forgetting_agrees_with_two_token_tables(has_head, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_BYTES", 8 * 461 * 50)  # chunks of 50 tokens
    start, now = (model if has_head else replace(model, head=None) for model in two_models())
    tokenizer, rows = demo_tokenizer(), demo_records(1, count=20)
    found = forgetting(start, now, tokenizer, rows)
    before, after = (evaluate_tokens(model, tokenizer, rows) for model in (start, now))
    change = (after.sum(after.nll) - before.sum(before.nll)).sum() / before.lengths.sum()
    # float32 log-probabilities
    assert found["forget_change"].value() == pytest.approx(change, abs=1e-4)
    assert found["forget_accuracy"].value() == pytest.approx(after.is_top1.mean() - before.is_top1.mean(), abs=1e-9)
    assert found["forget_kl"].value() > 0.01 and (found["forget_kl"].top > 0).all()


def test_a_model_that_has_not_moved_has_forgotten_nothing():
    start, _ = two_models()
    found = forgetting(start, start, demo_tokenizer(), demo_records(1, count=10))
    assert {metric.value() for metric in found.values()} == {0.0}


def test_forgetting_nothing_to_read_is_said():
    start, now = two_models()
    with pytest.raises(DataError, match="there is no held-out row"):
        forgetting(start, now, demo_tokenizer(), [])
