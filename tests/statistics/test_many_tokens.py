"""A sum over millions of tokens keeps its digits."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sftloss.loss import weighted_loss
from sftloss.statistics import Head, Plan

# a power of two: 1 / TOKENS is exact
TOKENS, CHUNK = 2**21, 8192
# the loss itself is float32, which rounds by up to 6e-8
BOUND = 1e-7


@cache
def case(signs: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    """Hidden states, head, targets, coefficients, the terms in float32, and the loss in float64."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, 2, generator=generator)
    head = torch.randn(4, 2, generator=generator)
    targets = torch.randint(0, 4, (TOKENS,), generator=generator)
    coefficients = torch.full((TOKENS,), 1 / TOKENS)
    if signs == "nearly cancelling":  # what is wanted first, then what is not, as a contrast of two answers has it
        coefficients[TOKENS // 2 :] *= -0.99
    terms = cross_entropy(hidden @ head.T, targets, reduction="none") * coefficients
    exact = cross_entropy(hidden.double() @ head.double().T, targets, reduction="none") * coefficients
    return hidden, head, targets, coefficients, terms, float(exact.sum())


def error(value: float, truth: float) -> float:
    return abs(value / truth - 1)


@pytest.mark.parametrize("signs", ["alike", "nearly cancelling"])
@pytest.mark.parametrize(
    "plan",
    [Plan("one_pass", tokens=CHUNK), Plan("one_pass", tokens=TOKENS), Plan("two_pass")],
    ids=["one_pass", "one_pass_at_once", "two_pass"],
)
def test_loss_of_two_million_tokens_is_that_of_float64(plan: Plan, signs: str) -> None:
    hidden, head, targets, coefficients, _, truth = case(signs)
    loss, _ = weighted_loss(hidden, Head(head), targets, coefficients, plan=plan)
    assert loss.dtype == torch.float32
    assert error(float(loss), truth) < BOUND


def test_sums_in_float32_err_more() -> None:
    """The negative control: a running float32 sum. How far a pairwise sum errs depends on the processor."""
    for signs in ("alike", "nearly cancelling"):
        *_, terms, truth = case(signs)
        running = terms.new_zeros(())
        for part in terms.split(CHUNK):
            running += part.sum()
        assert error(float(running), truth) > BOUND
