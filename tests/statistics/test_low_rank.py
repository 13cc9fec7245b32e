"""A head with a low-rank adapter is the head with the merged weight, which it never forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.objectives.rows import ENGINE_ROWS
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sftloss.loss import weighted_loss
from sftloss.statistics import FIELDS, Head, Plan, from_logits, map_logits, measure_tokens, token_statistics

PLANS = {"one_pass": Plan("one_pass", tokens=5), "two_pass": Plan("two_pass", tokens=8, columns=16)}
TOKENS, WIDTH, VOCAB, RANK, SCALING = 24, 12, 41, 3, 0.7
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def drawn(dtype: torch.dtype = torch.float64) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
    """[hidden, A, B], the frozen weight, targets with one ignored, signed coefficients with one zero."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((TOKENS, WIDTH), (RANK, WIDTH), (VOCAB, RANK), (VOCAB, WIDTH), (TOKENS,))
    *learning, weight, c = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    targets = torch.randint(0, VOCAB, (TOKENS,), generator=generator)
    targets[3], c[5] = -100, 0.0
    return [t.to(dtype).requires_grad_() for t in learning], weight.to(dtype), targets, c


def adapted(hidden: torch.Tensor, a: torch.Tensor, keep: torch.Tensor | float = 1.0) -> torch.Tensor:
    return torch.cat([hidden, SCALING * (hidden * keep) @ a.t()], dim=1)


@every_plan
@pytest.mark.parametrize("function", ENGINE_ROWS.values(), ids=ENGINE_ROWS)
def test_adapted_head_is_the_merged_head_for_every_objective(function: Callable, plan: Plan) -> None:
    (hidden, a, b), weight, targets, c = drawn()
    merged = weight + SCALING * b @ a
    wanted = (torch.where(targets == -100, 0.0, c) * function(from_logits(hidden @ merged.t(), targets))).sum()
    loss, _ = weighted_loss(adapted(hidden, a), Head(weight, low_rank=b), targets, c, function, plan=plan)
    assert_close(loss, wanted, rtol=1e-12, atol=1e-12)
    true = torch.autograd.grad(wanted * -1.7, (hidden, a, b))
    got = torch.autograd.grad(loss * -1.7, (hidden, a, b))
    for mine, one in zip(got, true, strict=True):
        assert_close(mine, one, rtol=1e-10, atol=1e-11)


@every_plan
def test_dropout_on_the_adapters_input_is_the_callers_own(plan: Plan) -> None:
    (hidden, a, b), weight, targets, c = drawn()
    keep = 2.0 * (torch.rand(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    logits = hidden @ weight.t() + SCALING * (hidden * keep) @ a.t() @ b.t()
    wanted = (torch.where(targets == -100, 0.0, c) * -from_logits(logits, targets).target_logprob).sum()
    loss, _ = weighted_loss(adapted(hidden, a, keep), Head(weight, low_rank=b), targets, c, plan=plan)
    for mine, one in zip(
        torch.autograd.grad(loss, (hidden, a, b)), torch.autograd.grad(wanted, (hidden, a, b)), strict=True
    ):
        assert_close(mine, one, rtol=1e-10, atol=1e-11)


@every_plan
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_errs_at_most_twice_what_the_plain_formula_errs(dtype: torch.dtype, plan: Plan) -> None:
    """From hidden states and u as the model gives them: in its own dtype."""
    learning, weight, targets, c = drawn(dtype)
    u = (SCALING * learning[0] @ learning[1].t()).detach()

    def run(cast: torch.dtype, is_ours: bool) -> list[torch.Tensor]:
        h, v, b = (t.detach().to(cast).requires_grad_() for t in (learning[0], u, learning[2]))
        if is_ours:
            head = Head(weight.to(cast), low_rank=b)
            loss = weighted_loss(torch.cat([h, v], dim=1), head, targets, c.to(cast), plan=plan)[0]
        else:
            stats = from_logits(h @ weight.to(cast).t() + v @ b.t(), targets)
            loss = (torch.where(targets == -100, 0.0, c.to(cast)) * -stats.target_logprob).sum()
        return [loss.detach().double(), *(g.double() for g in torch.autograd.grad(loss, (h, v, b)))]

    for true, low, got in zip(run(torch.float64, False), run(dtype, False), run(dtype, True), strict=True):
        floor = torch.finfo(dtype).eps * true.abs().max()
        assert (got - true).abs().max() <= 2 * (low - true).abs().max() + floor


def test_a_bfloat16_head_takes_a_float32_adapter() -> None:
    """As PEFT has it: A and B in float32 beside frozen bfloat16; each gradient comes in its parameter's type."""
    (hidden, a, b), weight, targets, c = drawn(torch.float32)
    low = hidden.detach().bfloat16().requires_grad_()
    head = Head(weight.bfloat16(), low_rank=b)
    loss, _ = weighted_loss(torch.cat([low, SCALING * low.float() @ a.t()], dim=1), head, targets, c)
    gradients = torch.autograd.grad(loss, (low, a, b))
    assert [g.dtype for g in gradients] == [torch.bfloat16, torch.float32, torch.float32]


def test_measured_norms_are_those_of_the_merged_head() -> None:
    (hidden, a, b), weight, targets, _ = drawn()
    objectives = {"ce": lambda s: -s.target_logprob, "entropy": lambda s: s.entropy}
    stats, got = measure_tokens(adapted(hidden, a).detach(), Head(weight, low_rank=b), targets, objectives)
    truth, wanted = measure_tokens(hidden.detach(), Head(weight + SCALING * b @ a), targets, objectives)
    for name in FIELDS:
        assert_close(getattr(stats, name), getattr(truth, name))
    for name in objectives:
        assert_close(vars(got[name]), vars(wanted[name]))


def test_divergence_of_the_adapted_head_from_the_one_below_it_is_mapped() -> None:
    """Teacher and student share the frozen weight, as when the adapter is switched off for the reference."""
    (hidden, a, b), weight, _, c = drawn()

    def kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return (teacher.softmax(-1) * (teacher.log_softmax(-1) - student.log_softmax(-1))).sum(-1)

    teacher = (hidden.detach(), Head(weight))
    ours = map_logits(kl, (adapted(hidden, a), Head(weight, scale=2.0, low_rank=b)), teacher, plan=Plan(tokens=5))
    true = kl(2.0 * hidden @ (weight + SCALING * b @ a).t(), teacher[0] @ weight.t())
    assert_close(ours, true)
    for mine, one in zip(
        torch.autograd.grad(ours, (hidden, a, b), c), torch.autograd.grad(true, (hidden, a, b), c), strict=True
    ):
        assert_close(mine, one, rtol=1e-9, atol=1e-11)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes; views of its inputs are not made."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def storages(values: Any) -> dict[int, int]:
            tensors = [t for t in tree_leaves(values) if isinstance(t, torch.Tensor)]
            return {t.untyped_storage().data_ptr(): t.numel() for t in tensors}

        out = func(*args, **(kwargs or {}))
        given = storages((args, kwargs))
        self.size = max([self.size, *(size for place, size in storages(out).items() if place not in given)])
        return out


@pytest.mark.parametrize("mode", ["one_pass", "two_pass"])
def test_neither_logits_nor_the_merged_weight_are_held(mode: str) -> None:
    vocab, width, tokens = 900, 20, 60
    hidden, weight = torch.randn(tokens, width, requires_grad=True), torch.randn(vocab, width)
    a, b = torch.randn(2, width, requires_grad=True), torch.randn(vocab, 2, requires_grad=True)
    plan = Plan(mode, tokens=6, columns=100)  # type: ignore[arg-type]
    largest = {}
    for name in ("ours", "merged"):
        with Largest() as watch:
            if name == "ours":
                x, head = torch.cat([hidden, hidden @ a.t()], dim=1), Head(weight, low_rank=b)
            else:
                x, head = hidden, Head(weight + b @ a)
            weighted_loss(x, head, torch.zeros(tokens, dtype=torch.long), torch.ones(tokens), plan=plan)[0].backward()
        largest[name] = watch.size
    assert largest["merged"] >= vocab * width  # the negative control
    assert largest["ours"] < vocab * width / 2


def test_wrong_width_and_rows_are_told_with_the_adapter() -> None:
    head = Head(torch.zeros(9, 6), low_rank=torch.zeros(9, 2))
    with pytest.raises(ValueError, match="hidden is 6 wide, .*hidden 6.*plus 2 columns for its adapter"):
        token_statistics(torch.zeros(4, 6), head, torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"low_rank has shape \(8, 2\), it must be \(9, r\)"):
        Head(torch.zeros(9, 6), low_rank=torch.zeros(8, 2))
