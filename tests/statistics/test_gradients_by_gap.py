"""The gradient of every statistic keeps its digits in float32, from a hopeless target to a certain one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from sftloss.loss import weighted_loss
from sftloss.statistics import Head, Plan, from_logits
from sftloss.statistics.tokens import DIFFERENTIABLE

REST = (0.0, -1.0, 0.5, -2.25, 1.25, -0.125, 0.75)
GAPS = range(-80, 81)  # the logit of the target
PLANS = {"one_pass": Plan("one_pass"), "two_pass": Plan("two_pass", columns=5)}


def logit_gradient(name: str, dtype: torch.dtype, plan: Plan | None, gaps: Sequence[int]) -> torch.Tensor:
    """Gradient of one statistic in the logits of each row; through the fused loss the head is the identity."""
    rest = torch.tensor(REST, dtype=dtype).expand(len(gaps), -1)
    logits = torch.cat([torch.tensor(gaps, dtype=dtype)[:, None], rest], dim=1).requires_grad_()
    targets, ones = torch.zeros(len(gaps), dtype=torch.int64), torch.ones(len(gaps), dtype=dtype)
    if plan is None:
        total = getattr(from_logits(logits, targets), name).sum()
    else:
        head = Head(torch.eye(logits.shape[1], dtype=dtype))
        total = weighted_loss(logits, head, targets, ones, lambda stats: getattr(stats, name), plan=plan)[0]
    return torch.autograd.grad(total, logits)[0].double().cpu()


def assert_digits_are_kept(name: str, plan: Plan | None, gaps: Sequence[int] = GAPS) -> None:
    """Compare float32 with float64 row by row, as a whole and at the target, relative to each value's own size."""
    exact, ours = logit_gradient(name, torch.float64, None, gaps), logit_gradient(name, torch.float32, plan, gaps)
    # a gap is rounded by 2^-24 of its size, which moves its exponential by as much; the rest is a few roundings
    bound = torch.tensor([2 * (abs(gap) + 6) * 2**-24 for gap in gaps], device="cpu")
    assert ((ours - exact).norm(dim=1) <= bound * exact.norm(dim=1)).all()
    assert ((ours - exact)[:, 0].abs() <= bound * exact[:, 0].abs()).all()


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("plan", [None, *PLANS.values()], ids=["definition", *PLANS])
def test_gradient_of_every_statistic_keeps_its_digits_at_every_gap(name: str, plan: Plan | None) -> None:
    assert_digits_are_kept(name, plan)
