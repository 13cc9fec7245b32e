"""Gradient filtering errs by no more than its bound, and not at all by default."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from sftloss.loss import weighted_loss
from sftloss.objectives import objective
from sftloss.statistics import Head, Plan

TOKENS, WIDTH, VOCAB, RANK, SCALE = 24, 8, 300, 3, 1.5


def gradients(plan: Plan, expression: str = "cross_entropy", **head: float) -> dict[str, torch.Tensor]:
    """Of a peaked distribution: most columns get less than 1e-4 from every token of a chunk."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"hidden": (TOKENS, WIDTH + RANK), "weight": (VOCAB, WIDTH), "bias": (VOCAB,), "low_rank": (VOCAB, RANK)}
    made = {n: torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for n, s in shapes.items()}
    targets = torch.randint(0, VOCAB, (TOKENS,), generator=generator)
    c = torch.randn(TOKENS, generator=generator, dtype=torch.float64)
    targets[3], c[5] = -100, 0.0
    of_head = {name: made[name] for name in ("weight", "bias", "low_rank")}
    loss, stats = weighted_loss(
        made["hidden"], Head(**of_head, scale=SCALE, **head), targets, c, objective(expression), plan=plan
    )
    found = dict(zip(made, torch.autograd.grad(loss, list(made.values())), strict=True))
    sums = {name: value.detach().abs().sum(dim=0) for name, value in made.items()}
    return {**found, "loss": loss.detach(), "logprob": stats.target_logprob, "largest": c.abs().max(), "sums": sums}  # type: ignore[dict-item]


@pytest.mark.parametrize("expression", ["cross_entropy", "focal(gamma=2)", "cross_entropy + 0.1 * entropy_bonus"])
@pytest.mark.parametrize("threshold", [1e-6, 1e-3, 0.05])
@pytest.mark.parametrize("softcap", [None, 20.0])
def test_filtered_gradients_err_within_the_bound(expression: str, threshold: float, softcap: float | None) -> None:
    exact = gradients(Plan(tokens=5), expression, softcap=softcap)  # type: ignore[arg-type]
    ours = gradients(Plan(tokens=5, skip_below=threshold), expression, softcap=softcap)  # type: ignore[arg-type]
    for name in ("loss", "logprob", "bias"):
        assert torch.equal(ours[name], exact[name])
    t, sums = threshold * SCALE * exact["largest"], exact["sums"]
    beside = {
        "hidden": torch.cat([sums["weight"], sums["low_rank"]]),  # type: ignore[call-overload]
        "weight": sums["hidden"][:WIDTH],  # type: ignore[call-overload]
        "low_rank": sums["hidden"][WIDTH:],  # type: ignore[call-overload]
    }
    for name, total in beside.items():
        # a few roundings of float64 on top
        assert ((ours[name] - exact[name]).abs() <= t * total + 1e-12).all()
    if threshold == 0.05:
        assert not torch.equal(ours["weight"], exact["weight"])  # something was left out


def test_nothing_below_the_threshold_is_nothing_lost() -> None:
    exact, ours = gradients(Plan(tokens=5)), gradients(Plan(tokens=5, skip_below=1e-300))
    for name in ("hidden", "weight", "low_rank"):
        assert_close(ours[name], exact[name], rtol=1e-12, atol=1e-14)


def test_columns_left_out_take_no_part_in_the_products() -> None:
    """The bound alone would be kept by leaving nothing out."""
    ours = gradients(Plan(tokens=100, skip_below=0.01))
    untouched = (ours["weight"] == 0).all(dim=1)
    assert 0.2 < untouched.double().mean() < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"skip_below": 1.0}, "at least 0 and below 1"),
        ({"mode": "two_pass", "skip_below": 0.1}, "two passes are exact"),
    ],
)
def test_impossible_filters_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(**arguments)
