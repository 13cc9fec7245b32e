"""The definition from logits, held to closed forms in float64 and to its own promises at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from sftloss.statistics import FIELDS, from_logits

NEG = float("-inf")


def plain(logits: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """Textbook formulas in float64."""
    log_p = logits.double().log_softmax(dim=1)
    p, at = log_p.exp(), targets[:, None]
    finite = log_p > NEG
    p_y = p.gather(1, at)[:, 0]
    return {
        "target_logprob": log_p.gather(1, at)[:, 0],
        "logsumexp": logits.double().logsumexp(dim=1),
        "entropy": -torch.where(finite, p * log_p, 0.0).sum(dim=1),
        "mean_logprob": torch.where(finite, log_p, 0.0).sum(dim=1) / finite.sum(dim=1),
        "collision": p.square().sum(dim=1),
        "other_logprob": p.scatter(1, at, 0.0).sum(dim=1).log(),
        "off_target_sq": p.square().sum(dim=1) - p_y.square(),
        "is_top1": log_p.argmax(dim=1) == targets,
        "max_logprob": log_p.amax(dim=1),
    }


@pytest.mark.parametrize("name", FIELDS)
def test_every_statistic_is_its_textbook_formula(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 23, generator=generator, dtype=torch.float64)
    logits[7:20, -4:] = NEG
    targets = torch.randint(0, 19, (50,), generator=generator)
    # 1e-9: the textbook off_target_sq is itself a difference
    assert_close(getattr(from_logits(logits, targets), name), plain(logits, targets)[name], rtol=1e-9, atol=1e-12)


CLOSED_FORMS = {
    "target_logprob": lambda p, log_p, e: e - p,
    "logsumexp": lambda p, log_p, e: p,
    "entropy": lambda p, log_p, e: -p * (log_p - (p * log_p).sum(1, keepdim=True)),
    "mean_logprob": lambda p, log_p, e: 1 / p.shape[1] - p,
    "collision": lambda p, log_p, e: 2 * p * (p - p.square().sum(1, keepdim=True)),
    "other_logprob": lambda p, log_p, e: (1 - e) * p / (1 - (p * e).sum(1, keepdim=True)) - p,
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_the_gradient_of_every_statistic_is_its_closed_form(name: str) -> None:
    logits = torch.randn(9, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    targets = torch.arange(9)
    (actual,) = torch.autograd.grad(getattr(from_logits(logits, targets), name).sum(), logits)
    log_p = logits.detach().log_softmax(dim=1)
    one_hot = torch.nn.functional.one_hot(targets, 13).double()
    assert_close(actual, CLOSED_FORMS[name](log_p.exp(), log_p, one_hot), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("gap", [0.0, 5.0, 12.0, 17.0, 30.0, 60.0, 85.0])
def test_statistics_stay_exact_where_the_target_is_nearly_certain(gap: float) -> None:
    """log p, log(1 - p) and entropy relative to their own size, where 1 - exp(log p) has lost every digit."""
    logits = torch.tensor([[gap, 0.0, -1.0, 0.5]])
    low, true = from_logits(logits, torch.tensor([0])), from_logits(logits.double(), torch.tensor([0]))
    for name in ("target_logprob", "other_logprob", "entropy", "logsumexp"):
        # rounding the gap itself, by 2^-24 of its size, moves exp(-gap) by that times the gap; the rest is a few ulps
        assert_close(getattr(low, name).double(), getattr(true, name), rtol=(gap + 6) * 2**-24, atol=0.0)


def test_the_statistics_do_not_move_with_a_common_offset() -> None:
    logits = torch.randn(20, 30, generator=torch.Generator().manual_seed(2)).mul(64).round().div(64)
    targets = torch.arange(20)
    # the offset is a power of two and the logits are multiples of 1/64, so adding it is exact
    here, far = from_logits(logits, targets), from_logits(logits + 4096.0, targets)
    for name in ("target_logprob", "entropy", "collision", "other_logprob"):
        assert_close(getattr(far, name), getattr(here, name), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0.0, 88.0, 3e4])
def test_values_and_gradients_are_finite_at_extreme_logits(dtype: torch.dtype, size: float) -> None:
    row = torch.tensor([[size, -size, 0.0, size / 2], [-size, size, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=dtype)
    logits = row.requires_grad_()
    stats = from_logits(logits, torch.tensor([0, 0, 3]))
    total = sum(getattr(stats, name).sum() for name in CLOSED_FORMS)
    (gradient,) = torch.autograd.grad(total, logits)
    assert torch.isfinite(total) and torch.isfinite(gradient).all()


def test_a_vocabulary_of_one_is_certain_and_has_no_gradient() -> None:
    logits = torch.tensor([[3.0, NEG, NEG]], requires_grad=True)
    stats = from_logits(logits, torch.tensor([0]))
    assert abs(stats.target_logprob.item()) < 1e-30 and stats.entropy.item() < 1e-30 and stats.logsumexp.item() == 3.0
    (gradient,) = torch.autograd.grad(stats.target_logprob.sum() + stats.entropy.sum(), logits)
    assert gradient.abs().max() < 1e-30


def test_ignored_rows_give_zeros_and_keep_their_nan_to_themselves() -> None:
    logits = torch.randn(3, 5)
    logits[1] = math.nan
    logits.requires_grad_()
    stats = from_logits(logits, torch.tensor([0, -100, 4]))
    total = (stats.target_logprob + stats.entropy + stats.mean_logprob).sum()
    (gradient,) = torch.autograd.grad(total, logits)
    assert torch.isfinite(total) and torch.isfinite(gradient).all()
    assert stats.entropy[1] == 0 and (gradient[1] == 0).all() and (gradient[0] != 0).any()


def test_a_target_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(ValueError, match=r"target 5 at token 1 is outside the vocabulary of 5. Use -100"):
        from_logits(torch.zeros(3, 5), torch.tensor([0, 5, 1]))


def test_unshifted_targets_are_refused_with_the_cure() -> None:
    with pytest.raises(ValueError, match="shift first"):
        from_logits(torch.zeros(3, 5), torch.tensor([0, 1, 1, 2]))


def test_a_statistic_that_was_not_computed_says_so() -> None:
    stats = from_logits(torch.zeros(1, 5), torch.tensor([0]), fields=("entropy",))
    with pytest.raises(AttributeError, match="'collision' was not computed, only entropy. Ask for it with fields="):
        _ = stats.collision
