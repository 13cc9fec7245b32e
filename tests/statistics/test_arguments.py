"""What a caller may give by mistake gets one sentence with the cure; what is odd but legal works in both passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from sftloss.loss import weighted_loss
from sftloss.statistics import Head, Plan, TokenStats, from_logits, map_logits, measure_tokens, token_statistics

HIDDEN, WEIGHT, TARGETS, ONES = torch.zeros(4, 6), torch.zeros(9, 6), torch.tensor([0, 1, 2, 3]), torch.ones(4)
LINEAR = torch.nn.Linear(6, 9)
PLANS = {"one_pass": Plan("one_pass", tokens=3), "two_pass": Plan("two_pass", columns=5)}
both_modes = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def gated(stats: TokenStats) -> torch.Tensor:
    return -stats.extras["gate"] * stats.target_logprob


def constant(stats: TokenStats) -> torch.Tensor:
    return torch.ones(len(stats.target_logprob))


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "a layer as head": (
        lambda: weighted_loss(HIDDEN, LINEAR, TARGETS, ONES),  # type: ignore[arg-type]
        r"weighted_loss: head must be a Head, got Linear. Write Head\(linear.weight, linear.bias\)",
    ),
    "a tensor as head": (
        lambda: token_statistics(HIDDEN, WEIGHT, TARGETS),  # type: ignore[arg-type]
        r"token_statistics: head must be a Head, got Tensor. Write Head\(weight\)",
    ),
    "a layer in Head": (lambda: Head(LINEAR), r"Head: weight must be a Tensor, got Linear. Write Head\(linear.weight"),  # type: ignore[arg-type]
    "a head of map_logits": (lambda: map_logits(len, (HIDDEN, LINEAR)), "map_logits: head must be a Head"),  # type: ignore[arg-type]
    "a string as plan": (
        lambda: weighted_loss(HIDDEN, Head(WEIGHT), TARGETS, ONES, plan="two_pass"),  # type: ignore[arg-type]
        r"weighted_loss: plan must be a Plan, got str. Write Plan\(mode='two_pass'\)",
    ),
    "a string as the plan of measure_tokens": (
        lambda: measure_tokens(HIDDEN, Head(WEIGHT), TARGETS, {}, plan="one_pass"),  # type: ignore[arg-type]
        "measure_tokens: plan must be a Plan",
    ),
    "one coefficient": (
        lambda: weighted_loss(HIDDEN, Head(WEIGHT), TARGETS, 0.25),  # type: ignore[arg-type]
        r"coefficients must be a Tensor, got float. Give one for each token, such as torch.ones\(4\)",
    ),
    "a list of coefficients": (
        lambda: weighted_loss(HIDDEN, Head(WEIGHT), TARGETS, [1.0] * 4),  # type: ignore[arg-type]
        "coefficients must be a Tensor, got list",
    ),
    "a list of extras": (
        lambda: weighted_loss(HIDDEN, Head(WEIGHT), TARGETS, ONES, gated, extras={"gate": [1.0] * 4}),  # type: ignore[dict-item]
        r"extras\['gate'\] must be a Tensor, got list",
    ),
    "a list of targets": (
        lambda: weighted_loss(HIDDEN, Head(WEIGHT), [0, 1, 2, 3], ONES),  # type: ignore[arg-type]
        "targets must be a Tensor, got list",
    ),
    "a number as objective": (
        lambda: weighted_loss(HIDDEN, Head(WEIGHT), TARGETS, ONES, 2.0),  # type: ignore[arg-type]
        "objective must be a function of TokenStats or an expression such as 'cross_entropy', got 2.0",
    ),
    "a name as an objective to measure": (
        lambda: measure_tokens(HIDDEN, Head(WEIGHT), TARGETS, {"ce": "cross_entropy"}),  # type: ignore[dict-item]
        r"measure_tokens: objectives\['ce'\] must be a Callable, got str. Write sftloss.objective\('cross_entropy'\)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_argument_of_another_type_gets_one_sentence_with_the_cure(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    "call", [lambda: Plan(fields=("entropi",)), lambda: from_logits(HIDDEN, TARGETS, fields=("h",))]
)
def test_statistic_that_does_not_exist_is_refused_with_those_that_do(call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="there is no statistic .*; choose from target_logprob, logsumexp, entropy"):
        call()


def test_objective_may_be_an_expression() -> None:
    from sftloss.objectives import objective

    hidden, weight = torch.randn(4, 6), torch.randn(9, 6)
    by_name, by_function = (
        weighted_loss(hidden, Head(weight), TARGETS, ONES, o)[0]
        for o in ("cross_entropy + 0.1 * z_loss", objective("cross_entropy + 0.1 * z_loss"))
    )
    assert torch.equal(by_name, by_function)


@both_modes
def test_no_token_is_a_connected_zero_for_an_objective_that_reads_extras(plan: Plan) -> None:
    hidden, weight, gate = torch.randn(0, 6, requires_grad=True), WEIGHT.clone().requires_grad_(), torch.ones(0)
    none = torch.zeros(0, dtype=torch.int64)
    loss, _ = weighted_loss(hidden, Head(weight), none, torch.ones(0), gated, extras={"gate": gate}, plan=plan)
    loss.backward()
    assert loss.item() == 0.0
    assert weight.grad is not None and (weight.grad == 0).all() and hidden.grad is not None


def test_extras_without_rows_that_learn_get_a_gradient_without_rows() -> None:
    gate, none = torch.ones(0, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    hidden = torch.randn(0, 6, requires_grad=True)
    weighted_loss(hidden, Head(WEIGHT), none, torch.ones(0), gated, extras={"gate": gate})[0].backward()
    assert gate.grad is not None and gate.grad.shape == (0,)


@both_modes
def test_constant_objective_is_connected_to_the_graph(plan: Plan) -> None:
    hidden, weight = torch.randn(4, 6, requires_grad=True), torch.randn(9, 6, requires_grad=True)
    loss, _ = weighted_loss(hidden, Head(weight), TARGETS, ONES, constant, plan=plan)
    loss.backward()
    assert loss.item() == 4.0
    for tensor in (hidden, weight):
        assert tensor.grad is not None and (tensor.grad == 0).all()


@both_modes
def test_nan_coefficient_at_an_ignored_target_changes_nothing(plan: Plan) -> None:
    hidden, weight = torch.randn(4, 6, requires_grad=True), torch.randn(9, 6, requires_grad=True)
    targets = torch.tensor([0, -100, 2, 3])
    results = []
    for value in (1.0, float("nan"), float("inf")):
        c = torch.tensor([1.0, value, 0.5, 2.0])
        loss, _ = weighted_loss(hidden, Head(weight), targets, c, plan=plan)
        results.append((loss.detach(), *torch.autograd.grad(loss, (hidden, weight))))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_coefficients_that_require_a_gradient_get_the_loss_of_each_token() -> None:
    hidden, weight = torch.randn(4, 6).double().requires_grad_(), torch.randn(9, 6).double().requires_grad_()
    targets, c = torch.tensor([0, -100, 2, 3]), torch.tensor([1.0, 2.0, 0.0, -3.0]).double().requires_grad_()
    loss, _ = weighted_loss(hidden, Head(weight), targets, c)
    losses = -from_logits(hidden @ weight.t(), targets).target_logprob
    for a, b in zip(*(torch.autograd.grad(v, (c, hidden, weight)) for v in (loss, (c * losses).sum())), strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="coefficients require a gradient. Use Plan"):
        weighted_loss(hidden, Head(weight), targets, c, plan=PLANS["one_pass"])
    with torch.no_grad():
        weighted_loss(hidden, Head(weight), targets, c, plan=PLANS["one_pass"])
