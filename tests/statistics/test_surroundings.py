"""The fused loss in what training wraps around it: autocast, checkpointing, torch.compile, shared and tied tensors."""

from __future__ import annotations

import pytest
import torch
from tests.statistics.test_engine import everything
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from sftloss.loss import weighted_loss
from sftloss.statistics import Head, Plan, from_logits, map_logits, token_statistics

MODES = {"one_pass": Plan("one_pass", tokens=4), "two_pass": Plan("two_pass", columns=5)}
both_modes = pytest.mark.parametrize("plan", MODES.values(), ids=MODES)
TARGETS, C = torch.tensor([3, 1, -100, 8, 0, 5]), torch.tensor([0.3, -1.0, 1.0, 0.5, 0.0, 2.0], dtype=torch.float64)


def body() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4)).double()
    return model, torch.randn(6, 5, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64).requires_grad_()


def fused(hidden: torch.Tensor, weight: torch.Tensor, plan: Plan) -> torch.Tensor:
    return weighted_loss(hidden, Head(weight), TARGETS, C, everything, plan=plan)[0]


def gradients(loss: torch.Tensor, model: torch.nn.Module, weight: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [*model.parameters(), weight]))


def same(ours: list[torch.Tensor], plain: list[torch.Tensor]) -> None:
    for a, b in zip(ours, plain, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-12)


@both_modes
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_body_and_loss_together_changes_nothing(plan: Plan, use_reentrant: bool) -> None:
    model, x, weight = body()
    plain = gradients(fused(model(x), weight, plan), model, weight)
    x.requires_grad_()  # reentrant checkpointing needs an input that learns, and backward() rather than grad()
    checkpoint(lambda x, w: fused(model(x), w, plan), x, weight, use_reentrant=use_reentrant).backward()
    same([p.grad for p in (*model.parameters(), weight)], plain)  # type: ignore[misc]


# the compiler's own look at a tensor that is no leaf
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@both_modes
def test_compiling_what_is_around_the_loss_changes_nothing(plan: Plan) -> None:
    """`aot_eager` traces forward and backward as the default does, and needs no compiler of C++."""
    model, x, weight = body()
    plain = gradients(fused(model(x), weight, plan), model, weight)

    def step(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return fused(model(2 * x) * 1.0, weight, plan) / 2 + x.sum() * 0

    torch._dynamo.reset()
    compiled_body = torch.compile(model, backend="aot_eager")
    same(gradients(fused(compiled_body(x), weight, plan), model, weight), plain)
    around = torch.compile(step, backend="aot_eager")
    same(gradients(around(x, weight), model, weight), gradients(step(x, weight), model, weight))


@both_modes
def test_hidden_states_used_twice_get_both_gradients(plan: Plan) -> None:
    model, x, weight = body()

    def both(loss_of) -> torch.Tensor:  # type: ignore[no-untyped-def]
        hidden = model(x)
        return loss_of(hidden) + 0.5 * loss_of(hidden.flip(0)) + hidden.square().sum()

    ours = gradients(both(lambda h: fused(h, weight, plan)), model, weight)

    def definition(h: torch.Tensor) -> torch.Tensor:
        return (torch.where(TARGETS == -100, 0.0, C) * everything(from_logits(h @ weight.t(), TARGETS))).sum()

    same(ours, gradients(both(definition), model, weight))


@both_modes
def test_tied_embeddings_get_the_sum_of_both_uses(plan: Plan) -> None:
    embedding = torch.nn.Embedding(9, 4, dtype=torch.float64)
    ids = torch.tensor([1, 2, 3, 1, 0, 8])
    fused(embedding(ids).tanh(), embedding.weight, plan).backward()
    rows, head = (embedding.weight.detach().clone().requires_grad_() for _ in range(2))
    fused(rows[ids].tanh(), head, plan).backward()
    assert_close(embedding.weight.grad, rows.grad + head.grad)


@both_modes
def test_autocast_around_the_loss_changes_no_bit_of_it(plan: Plan) -> None:
    """The body runs in bfloat16; the loss multiplies what it is given in float32 and answers in float32."""
    model, x, weight = body()
    model, x, weight = model.float(), x.float(), weight.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model(x)
        assert hidden.dtype == torch.bfloat16
        loss = fused(hidden, weight, plan)
    outside = fused(hidden, weight, plan)
    assert loss.dtype == torch.float32 and torch.equal(loss, outside)
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in (*model.parameters(), weight))


@pytest.mark.parametrize("call", ["one_pass", "two_pass", "token_statistics", "map_logits"])
def test_a_second_derivative_is_refused_by_name(call: str) -> None:
    model, x, weight = body()
    hidden, head = model(x), Head(weight)
    loss = {
        "one_pass": lambda: fused(hidden, weight, MODES["one_pass"]),
        "two_pass": lambda: fused(hidden, weight, MODES["two_pass"]),
        "token_statistics": lambda: token_statistics(hidden, head, TARGETS).entropy.sum(),
        "map_logits": lambda: map_logits(lambda z: z.logsumexp(-1), (hidden, head)).sum(),
    }[call]()
    name = {"one_pass": "weighted_loss", "two_pass": "token_statistics"}.get(call, call)
    with pytest.raises(RuntimeError, match=f"{name}: has no second derivatives"):
        torch.autograd.grad(loss, weight, create_graph=True)
