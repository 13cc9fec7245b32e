"""Plain PyTorch as a device without our kernels runs it (xpu, mps, a GPU without Triton), acted out on a CPU.

Chunks and tiles have a device's sizes, tokens that do not count are not multiplied, on a GPU nothing waits for the
device where their number is known, and on a device without float64 nothing is float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.statistics.test_engine import KINDS, everything, make_head, make_tokens, parameters, reference
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import sftloss.loss
from sftloss.loss import weighted_loss
from sftloss.objectives import cross_entropy
from sftloss.statistics import Head, Plan, checks, map_logits, measure_tokens, token_statistics
from sftloss.statistics.backends.plain import PlainBackend
from sftloss.statistics.checks import Reading
from sftloss.statistics.products import logits

modes = pytest.mark.parametrize("mode", ["one_pass", "two_pass"])


@pytest.fixture(autouse=True)
def _is_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    of, calls = PlainBackend.of, []

    def device_of(hidden: torch.Tensor, head: Head) -> PlainBackend:
        calls.append(1)
        return replace(of(hidden, head), is_device=True)

    monkeypatch.setattr(PlainBackend, "of", device_of)
    yield
    assert calls, "the plain backend was not used"


@pytest.mark.parametrize("kind", KINDS)
@modes
def test_loss_and_gradients_are_those_of_the_definition(kind: str, mode: Any) -> None:
    head, (hidden, targets, c) = make_head(kind), make_tokens()
    wanted = reference(hidden, head, targets, c, everything)
    loss, _ = weighted_loss(hidden, head, targets, c, everything, plan=Plan(mode))
    assert_close(loss, wanted, rtol=1e-12, atol=1e-12)  # float64: only the order of the sums differs
    true = torch.autograd.grad(wanted, parameters(hidden, head))
    for a, b in zip(true, torch.autograd.grad(loss, parameters(hidden, head)), strict=True):
        assert_close(b, a, rtol=1e-10, atol=1e-12)


class _Watch(TorchDispatchMode):
    """Refuses operations whose answer the host has to wait for, or any that give float64; counts multiplications."""

    def __init__(self, *, waits: bool = False, float64: bool = False) -> None:
        super().__init__()
        self.waits, self.float64, self.multiplications = waits, float64, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert not (self.waits and name in ("nonzero", "_local_scalar_dense", "is_nonzero", "equal")), func
        out = func(*args, **(kwargs or {}))
        if name in ("mm", "addmm", "addmm_"):
            a, b = args[-2:]
            self.multiplications += a.shape[0] * a.shape[1] * b.shape[1]
        assert not (self.float64 and isinstance(out, torch.Tensor) and out.dtype == torch.float64), func
        return out


def half_counted(dtype: torch.dtype) -> tuple[torch.Tensor, Head, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 16, generator=generator).to(dtype).requires_grad_() for n in (64, 90))
    targets, c = torch.randint(0, 90, (64,), generator=generator), torch.full((64,), 1 / 32)
    targets[::4], c[1::4] = -100, 0.0
    return hidden, Head(weight), targets, c


@modes
def test_nothing_waits_and_no_ignored_token_is_multiplied_where_the_count_is_known(mode: Any) -> None:
    hidden, head, targets, c = half_counted(torch.float32)
    is_counted = (targets != -100) & (c != 0)
    plan = Plan(mode, counted=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "check_ids", lambda *_: None)  # on xpu and mps it waits once
        seen = Reading({"target_logprob"}, learns=False, mixes_tokens=False)
        patch.setattr(sftloss.loss, "read_objective", lambda *_: seen)  # its four tokens are on the CPU
        with _Watch(waits=True) as half:
            weighted_loss(hidden, head, targets, c, cross_entropy, plan=plan)[0].backward()
    with _Watch() as alone:
        kept = hidden.detach()[is_counted].requires_grad_()
        weighted_loss(kept, head, targets[is_counted], c[is_counted], cross_entropy, plan=Plan(mode))[0].backward()
    assert half.multiplications == alone.multiplications == 3 * 32 * 16 * 90


@modes
def test_a_device_without_float64_computes_the_same(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, targets, c = half_counted(torch.float32)
    wanted = torch.autograd.grad(weighted_loss(hidden, head, targets, c, everything, plan=Plan(mode))[0], hidden)[0]
    monkeypatch.setattr(logits, "_WITHOUT_FLOAT64", ("cpu",))
    with _Watch(float64=True):
        loss, _ = weighted_loss(hidden, head, targets, c, everything, plan=Plan(mode))
        (got,) = torch.autograd.grad(loss, hidden)
        token_statistics(hidden, head, targets)
        measure_tokens(hidden, head, targets, {"ce": cross_entropy})
        map_logits(lambda z: z.logsumexp(1), (hidden, head)).sum().backward()
    assert_close(got, wanted)
