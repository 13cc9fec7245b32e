"""The laws every objective obeys under every mode of the engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.objectives.rows import ENGINE_ROWS, ENTRIES, FURTHER_ROWS, made_up_extras, rows_of
from torch.testing import assert_close

from sftloss.loss import weighted_loss
from sftloss.objectives import objective
from sftloss.statistics import Head, Plan, from_logits, token_statistics
from sftloss.weights import coefficients, length_weights, normalizer

PLANS = {"one_pass": Plan("one_pass", tokens=5), "two_pass": Plan("two_pass", tokens=8, columns=16)}
every_objective = pytest.mark.parametrize("function", rows_of(is_slow=FURTHER_ROWS.__contains__))
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def inputs(tokens: int = 24, width: int = 12, vocab: int = 41, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab, width, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, vocab, (tokens,), generator=generator)
    targets[1::2] = (hidden @ weight.t()).argmax(dim=1)[1::2]  # some objectives train likely targets only
    c = torch.randn(tokens, generator=generator, dtype=torch.float64)  # signed: a reward is legal
    return hidden, weight, targets, c


def evaluate(function: Callable, how: Plan | str, dtype: torch.dtype, data: Inputs) -> list[torch.Tensor]:
    """Loss, dh and dW, as float64."""
    hidden, weight = data[0].to(dtype).requires_grad_(), data[1].to(dtype).requires_grad_()
    targets, c = data[2], data[3].to(dtype)
    if isinstance(how, Plan):
        extras = made_up_extras(function, c)
        loss = weighted_loss(hidden, Head(weight), targets, c, function, extras=extras, plan=how)[0]
    else:
        loss = losses(function, (hidden, weight, targets, c)).sum()
    gradients = torch.autograd.grad(loss * -0.7, (hidden, weight))
    return [loss.detach().double(), *(g.double() for g in gradients)]


def losses(function: Callable, data: Inputs) -> torch.Tensor:
    """The terms of the loss: coefficients times the objective, in the dtype of the data."""
    hidden, weight, targets, c = data
    extras = made_up_extras(function, c)
    return c * function(from_logits(hidden @ weight.t(), targets, extras=extras))


@every_objective
@every_plan
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weighted_loss_is_its_definition(function: Callable, plan: Plan, dtype: torch.dtype) -> None:
    """Loss and gradients err at most twice what the plain formula errs in the same dtype, over two draws."""
    errors, limits = [], []
    for seed in (1, 2):  # in one draw the plain formula may by luck err little
        data = inputs(seed=seed)
        rounded = tuple(t.to(dtype).double() if t.is_floating_point() else t for t in data)
        truth = evaluate(function, "definition", torch.float64, rounded)  # type: ignore[arg-type]
        plain = evaluate(function, "definition", dtype, data)
        ours = evaluate(function, plan, dtype, data)
        # the loss is a sum of signed terms that cancel, so it errs as they do
        scales = [losses(function, rounded).abs().sum(), *(gradient.abs().max() for gradient in truth[1:])]  # type: ignore[arg-type]
        errors.append(torch.stack([(got - true).abs().max() for got, true in zip(ours, truth, strict=True)]))
        plain_errors = torch.stack([(low - true).abs().max() for low, true in zip(plain, truth, strict=True)])
        limits.append(2 * plain_errors + torch.finfo(dtype).eps * torch.stack(scales))
    assert (torch.stack(errors).amax(dim=0) <= torch.stack(limits).amax(dim=0)).all()


@pytest.mark.parametrize("function", rows_of(is_slow=lambda name: name not in (*ENGINE_ROWS, "sum")))
def test_gradcheck_holds_through_both_modes(function: Callable) -> None:
    if any(ENTRIES[term.name].record.is_detached for term in objective(function).terms):
        return  # its gradient is by definition not the derivative of its value; its closed form is tested
    hidden, weight, targets, c = inputs(5, 4, 7)
    extras = made_up_extras(function, c)
    for plan in PLANS.values():
        assert torch.autograd.gradcheck(
            lambda h, w, plan=plan: weighted_loss(h, Head(w), targets, c, function, extras=extras, plan=plan)[0],
            (hidden.requires_grad_(), weight.requires_grad_()),
        )


@every_objective
@every_plan
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [60.0, 240.0])
def test_values_and_gradients_are_finite_at_extreme_logits(
    function: Callable, plan: Plan, dtype: torch.dtype, size: float
) -> None:
    weight = torch.eye(6, dtype=dtype).mul(size).requires_grad_()
    hidden = torch.cat([torch.eye(6), -torch.eye(6), torch.zeros(1, 6)]).to(dtype).requires_grad_()
    targets = torch.tensor([0, 1, 2, 0, 0, 0, 0, 1, 2, 3, 3, 3, 5])
    bias = torch.zeros(6, dtype=dtype)
    bias[4] = float("-inf")
    c = torch.full((13,), 1 / 64)
    extras = made_up_extras(function, c)
    loss = weighted_loss(hidden, Head(weight, bias), targets, c, function, extras=extras, plan=plan)[0]
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in gradients)


@every_objective
@every_plan
def test_a_token_with_coefficient_zero_gets_exactly_zero_gradient(function: Callable, plan: Plan) -> None:
    hidden, weight, targets, c = inputs()
    c[::3] = 0.0
    hidden.requires_grad_()
    extras = made_up_extras(function, c)
    loss = weighted_loss(hidden, Head(weight), targets, c, function, extras=extras, plan=plan)[0]
    (gradient,) = torch.autograd.grad(loss, hidden)
    (plain,) = torch.autograd.grad(function(from_logits(hidden @ weight.t(), targets, extras=extras)).sum(), hidden)
    is_trained = (plain.abs() > 1e-9).any(dim=1)  # some objectives leave out tokens
    assert (gradient[::3] == 0).all() and is_trained[1::3].any()
    assert (gradient[1::3] != 0).any(dim=1)[is_trained[1::3]].all()


@every_objective
@every_plan
def test_micro_batches_in_any_order_make_one_batch(function: Callable, plan: Plan) -> None:
    """Normalized once, by one number for the step, any split of the tokens gives the same loss and gradient."""
    hidden, weight, targets, _ = inputs()
    segments = torch.arange(24) // 6
    u = length_weights(torch.rand(24, dtype=torch.float64), segments, alpha=0.5)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    extras = made_up_extras(function, u)
    for by in ("weights", "sequences", "tokens"):
        total = normalizer(u, segments, by=by)
        parts = []
        for piece in (torch.arange(24), order[:1], order[1:9], order[9:]):
            h, w = hidden[piece].requires_grad_(), weight.clone().requires_grad_()
            c, some = coefficients(u[piece], total), {name: value[piece] for name, value in extras.items()}
            loss = weighted_loss(h, Head(w), targets[piece], c, function, extras=some, plan=plan)[0]
            parts.append((loss.detach(), *torch.autograd.grad(loss, (w,))))
        for whole, *split in zip(*parts, strict=True):
            # float64 sums in another order
            assert_close(sum(split), whole, rtol=1e-10, atol=1e-12)


@every_objective
def test_shards_of_the_vocabulary_merge_exactly(function: Callable) -> None:
    hidden, weight, targets, c = inputs()
    whole = evaluate(function, Plan("two_pass"), torch.float64, (hidden, weight, targets, c))
    for columns in (1, 2, 7, 40):
        parts = evaluate(function, Plan("two_pass", columns=columns), torch.float64, (hidden, weight, targets, c))
        for a, b in zip(whole, parts, strict=True):
            assert_close(b, a, rtol=1e-10, atol=1e-12)


@every_objective
def test_the_statistics_returned_are_those_of_the_same_pass(function: Callable) -> None:
    hidden, weight, targets, c = inputs()
    extras = made_up_extras(function, c)
    loss, stats = weighted_loss(hidden, Head(weight), targets, c, function, extras=extras)
    again = token_statistics(hidden, Head(weight), targets, fields=tuple(stats.fields), extras=extras)
    for name, value in stats.fields.items():
        assert not value.requires_grad
        assert_close(value, again.fields[name], rtol=1e-10, atol=1e-12)
