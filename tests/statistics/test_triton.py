"""The kernels against the definition: in Triton's interpreter, or on a GPU where there is one.

Small shapes that no block divides: 17 or 41 columns, 8 at a time, in tiles of 9 or 16; targets lie on both edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.objectives.rows import ENGINE_ROWS, LAW_ROWS, rows_of
from tests.statistics.test_engine import KINDS, everything, make_head, make_tokens, parameters, reference
from tests.statistics.test_gradients_by_gap import assert_digits_are_kept
from tests.test_laws import evaluate, inputs
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import sftloss.loss
from sftloss.loss import weighted_loss
from sftloss.objectives import cross_entropy
from sftloss.statistics import FIELDS, Head, Plan, TokenStats, checks, from_logits, token_statistics
from sftloss.statistics.backends import backend
from sftloss.statistics.checks import Reading
from sftloss.statistics.products import filtering
from sftloss.statistics.tokens import DIFFERENTIABLE

pytest.importorskip("triton", reason="the kernels need Triton, which is built for Linux on x86-64")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLANS = {
    "one_pass": Plan("one_pass", tokens=5),
    "one_chunk_in_blocks": Plan("one_pass", columns=9),
    "two_pass": Plan("two_pass", tokens=8, columns=9),
    "two_pass_one_tile": Plan("two_pass"),
}
BOTH = {"one_pass": Plan("one_pass", tokens=7), "two_pass": Plan("two_pass", columns=16)}
both_modes = pytest.mark.parametrize("plan", BOTH.values(), ids=BOTH)


@pytest.fixture(autouse=True)
def _kernels_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On this device, eight columns at a time; a test that launched neither kernel would prove nothing."""
    from sftloss.statistics.backends import triton as kernels

    launches = []
    read = kernels.TritonBackend.read
    monkeypatch.setattr(kernels.TritonBackend, "read", lambda *args: (launches.append(1), read(*args))[1])
    monkeypatch.setattr(kernels, "_BLOCK", 8)
    monkeypatch.setattr(backend, "KERNEL_DEVICES", ["cuda", "cpu"])
    with torch.device(DEVICE):
        yield
    assert launches, "no kernel was launched"


def here(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach().to(DEVICE).requires_grad_(tensor.requires_grad)


def problem(kind: str) -> tuple[Head, torch.Tensor, torch.Tensor, torch.Tensor]:
    with torch.device("cpu"):
        head, (hidden, targets, c) = make_head(kind), make_tokens()
        targets[1], targets[2], targets[4] = 0, 9, 8  # both sides of an edge
    head = replace(head, weight=here(head.weight), bias=here(head.bias), low_rank=here(head.low_rank))
    return head, *(here(t) for t in (hidden, targets, c))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_kernels_give_the_loss_of_the_definition_and_its_gradients(kind: str, plan: Plan) -> None:
    head, hidden, targets, c = problem(kind)
    wanted = reference(hidden, head, targets, c, everything)
    loss, _ = weighted_loss(hidden, head, targets, c, everything, plan=plan)
    # float64 in the kernels too: only the order of the sums differs, and tanh is made of exp
    assert_close(loss, wanted, rtol=1e-12, atol=1e-12)
    true = torch.autograd.grad(wanted * -1.7, parameters(hidden, head))
    got = torch.autograd.grad(loss * -1.7, parameters(hidden, head))
    for a, b in zip(true, got, strict=True):
        assert_close(b, a, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("plan", [Plan("one_pass"), Plan("two_pass", columns=70)], ids=["one_pass", "two_pass"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rows_of_products_that_lie_apart_change_nothing(plan: Plan, dtype: torch.dtype) -> None:
    """97 columns lie 128 apart, 70 lie 96."""
    data = tuple(t.to(DEVICE) for t in inputs(7, 5, 97))
    low = tuple(t.to(dtype) if t.is_floating_point() else t for t in data)
    exact = tuple(t.double() if t.is_floating_point() else t for t in low)
    true = evaluate(everything, "definition", torch.float64, exact)  # type: ignore[arg-type]
    tolerance = 1e-10 if dtype == torch.float64 else 0.02  # the gradient's rounding to bfloat16, and that of dz
    for a, b in zip(true, evaluate(everything, plan, dtype, low), strict=True):  # type: ignore[arg-type]
        assert (b.double() - a).norm() <= tolerance * a.norm()


@both_modes
def test_gradient_of_a_likely_candidate_is_rounded_once(plan: Plan) -> None:
    """p - 1 with p rounded to bfloat16 would err by 4 % at p = 0.95."""
    head = Head(torch.tensor([[3.1], [0.0]], dtype=torch.bfloat16))
    hidden = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    ids, one = torch.tensor([0]), torch.ones(1)

    def likelihood(stats: TokenStats) -> torch.Tensor:
        return -stats.candidate_logprob[:, 0]

    loss, _ = weighted_loss(hidden, head, ids, one, likelihood, extras={"candidate_ids": ids[:, None]}, plan=plan)
    (gradient,) = torch.autograd.grad(loss, hidden)
    slope = float(head.weight[0])
    assert float(gradient) == pytest.approx(-slope * torch.sigmoid(torch.tensor(-slope)).item(), rel=0.01)


# the kernels see which statistics are read, no other difference of objectives
KINDS_OF_READING = (*ENGINE_ROWS, "sum", "unlikelihood_context", "distillation")


@pytest.mark.parametrize("function", rows_of(is_slow=lambda name: name not in KINDS_OF_READING))
@both_modes
def test_every_objective_through_the_kernels_is_its_definition(function: Callable, plan: Plan) -> None:
    data = tuple(t.to(DEVICE) for t in inputs(7, 5, 41))
    for a, b in zip(
        evaluate(function, "definition", torch.float64, data),  # type: ignore[arg-type]
        evaluate(function, plan, torch.float64, data),  # type: ignore[arg-type]
        strict=True,
    ):
        assert_close(b, a, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["cross_entropy", "sum"])
@both_modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_in_the_kernels_errs_at_most_twice_the_plain_formula(
    name: str, plan: Plan, dtype: torch.dtype
) -> None:
    data = tuple(t.to(DEVICE) for t in inputs(12, 12, 41))
    rounded = tuple(t.to(dtype).double() if t.is_floating_point() else t for t in data)
    truth = evaluate(LAW_ROWS[name], "definition", torch.float64, rounded)  # type: ignore[arg-type]
    plain = evaluate(LAW_ROWS[name], "definition", dtype, data)  # type: ignore[arg-type]
    ours = evaluate(LAW_ROWS[name], plan, dtype, data)  # type: ignore[arg-type]
    for true, low, got in zip(truth, plain, ours, strict=True):
        floor = torch.finfo(dtype).eps * true.abs().max()
        assert (got - true).abs().max() <= 2 * (low - true).abs().max() + floor


@both_modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [60.0, 240.0])
def test_the_kernels_stay_finite_at_extreme_logits(plan: Plan, dtype: torch.dtype, size: float) -> None:
    weight = torch.eye(6, dtype=dtype).mul(size).requires_grad_()
    hidden = torch.cat([torch.eye(6), -torch.eye(6), torch.zeros(1, 6)]).to(dtype).requires_grad_()
    targets = torch.tensor([0, 1, 2, 0, 0, 0, 0, 1, 2, 3, 3, 3, 5])
    bias = torch.zeros(6, dtype=dtype)
    bias[4] = float("-inf")
    loss = weighted_loss(hidden, Head(weight, bias), targets, torch.full((13,), 1 / 64), everything, plan=plan)[0]
    assert all(torch.isfinite(t).all() for t in (loss, *torch.autograd.grad(loss, (hidden, weight))))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@both_modes
def test_gradient_of_every_statistic_keeps_its_digits_through_the_kernels(name: str, plan: Plan) -> None:
    assert_digits_are_kept(name, plan, range(-80, 81, 8))


@pytest.mark.parametrize("kind", ["plain", "padded", "softcap"])
def test_every_statistic_from_the_kernels_is_the_definition(kind: str) -> None:
    head, hidden, targets, _ = problem(kind)
    true = from_logits(head.logits(hidden), targets)
    for columns in (5, 17):
        got = token_statistics(hidden, head, targets, plan=Plan(columns=columns))
        for name in FIELDS:
            assert_close(getattr(got, name), getattr(true, name), rtol=1e-10, atol=1e-12)


def test_a_vocabulary_of_which_only_the_target_is_left_has_no_gradient() -> None:
    bias = torch.full((9,), float("-inf"))
    bias[4] = 0.0
    hidden = torch.randn(2, 3).requires_grad_()
    loss, stats = weighted_loss(hidden, Head(torch.randn(9, 3), bias), torch.tensor([4, 4]), torch.ones(2), everything)
    (gradient,) = torch.autograd.grad(loss, hidden)
    # the sum over the rest is the smallest float there, not 0
    assert (stats.target_logprob.abs() < 1e-30).all() and torch.isfinite(gradient).all()


@both_modes
def test_rows_that_do_not_count_reach_nothing_through_the_kernels(plan: Plan) -> None:
    """NaN in them, or in their extras, must not spread."""
    head, hidden, targets, c = problem("bias")
    poisoned, gate = hidden.detach().clone(), torch.ones(11, dtype=torch.float64)
    poisoned[3] = poisoned[5] = gate[3] = gate[5] = float("nan")
    poisoned.requires_grad_()

    def gated(stats: TokenStats) -> torch.Tensor:
        return stats.extras["gate"] * cross_entropy(stats)

    loss, stats = weighted_loss(poisoned, head, targets, c, gated, extras={"gate": gate}, plan=plan)
    got = torch.autograd.grad(loss, (poisoned, head.weight, head.bias))  # type: ignore[arg-type]
    wanted = reference(hidden, head, targets, torch.where(c == 0, 0.0, c), cross_entropy)
    for a, b in zip(torch.autograd.grad(wanted, (hidden, head.weight, head.bias)), got, strict=True):  # type: ignore[arg-type]
        assert_close(b, a, rtol=1e-10, atol=1e-12)
    assert (got[0][[3, 5]] == 0).all() and (stats.target_logprob[[3, 5]] == 0).all()


class _Waits(TorchDispatchMode):
    """Refuses the operations whose answer the host has to wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func.overloadpacket.__name__ not in ("nonzero", "_local_scalar_dense", "is_nonzero", "equal"), func
        return func(*args, **(kwargs or {}))


@both_modes
def test_forward_and_backward_never_wait_for_the_device_where_the_count_is_known(plan: Plan) -> None:
    head, hidden, targets, c = problem("padded")
    plan = replace(plan, counted=int((c != 0).sum()))
    targets_are_ids = targets.masked_fill(targets == -100, 0)  # the door looks at ids, on a CPU only
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "check_ids", lambda *_: None)
        seen = Reading({"target_logprob"}, learns=False, mixes_tokens=False)
        patch.setattr(sftloss.loss, "read_objective", lambda *_: seen)  # its four tokens are on the CPU
        with _Waits():
            loss = weighted_loss(hidden, head, targets_are_ids, c, cross_entropy, plan=plan)[0]
            loss.backward()


@both_modes
def test_the_kernels_give_the_same_bits_each_time_and_change_no_input(plan: Plan) -> None:
    data = tuple(t.to(DEVICE) for t in inputs(7, 5, 41))
    before = [t.clone() for t in data]
    first, second = (evaluate(everything, plan, torch.float32, data) for _ in range(2))  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip((*first, *before), (*second, *data), strict=True))


@pytest.mark.parametrize(
    ("mode", "dtype", "columns"),
    [
        ("one_pass", torch.float64, None),
        ("one_pass", torch.bfloat16, 64),
        ("two_pass", torch.float64, 64),
        ("two_pass", torch.bfloat16, None),
    ],
)
def test_filtered_gradients_come_from_the_kernels_too(
    mode: Any, dtype: torch.dtype, columns: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filtering, "_FEWEST", 1)
    hidden, weight, _, c = (t.to(DEVICE) for t in inputs(9, 5, 160))
    weight = 6 * weight
    targets = (hidden @ weight.t()).argmax(dim=1)
    hidden[:, 0], weight[:, 0] = 1.0, 1.0
    low, weight = hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
    exact, ours, filtered = [], [], []
    for tolerance, values in ((0.0, exact), (0.05, ours)):
        plan = Plan(mode, tokens=5, columns=columns, tolerance=tolerance)
        loss, stats = weighted_loss(low, Head(weight), targets, c, plan=plan)
        values += torch.autograd.grad(loss, (low, weight))
        filtered.append(stats.filtered)
    assert filtered[0] is None
    assert filtered[1] is not None
    assert filtered[1].kept < 0.6
    rounding = torch.finfo(dtype).eps
    for a, b in zip(exact, ours, strict=True):
        assert not torch.equal(a, b)
        assert (a - b).double().norm() <= (0.05 + rounding) * a.double().norm()
        # one rounding of either, and of the dz that the sums are made of
        assert ((a - b)[:, 0].abs() <= 4 * rounding * a.abs().max() + 1e-13).all()


def test_mixed_precision_multiplies_in_the_dtype_of_autocast() -> None:
    hidden, weight, targets, c = (t.to(DEVICE) for t in inputs(7, 5, 41))
    h, w = hidden.float().requires_grad_(), weight.float().requires_grad_()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        loss = weighted_loss(h, Head(w), targets, c)[0]
    low = (hidden.bfloat16(), weight.bfloat16(), targets, c)
    rounded = evaluate(cross_entropy, Plan(), torch.float32, low)  # type: ignore[arg-type]
    assert loss.dtype == torch.float32
    assert_close(loss.detach().double(), rounded[0], rtol=1e-5, atol=1e-6)  # products of bfloat16, sums of float32
    (gradient,) = torch.autograd.grad(loss, w)
    assert gradient.dtype == torch.float32
