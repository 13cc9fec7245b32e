"""The statistics that take a number or candidates: textbook formulas, gradients, extremes, every way to them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from tests.statistics.test_engine import KINDS, PLANS, make_head, make_tokens, parameters
from torch import Tensor
from torch.testing import assert_close

from sftloss.loss import weighted_loss
from sftloss.statistics import Head, Plan, TokenStats, from_logits, measure_tokens, token_statistics
from sftloss.statistics.backends import backend, further

FIELDS = ("rank", "top_mass(3)", "top_entropy(3)", "top_entropy(20)", "tempered_logprob(0.7)", "candidate_logprob")


def candidate_ids(targets: Tensor, vocab: int = 14) -> Tensor:
    """The target, one id twice, one outside the vocabulary, one that is any other."""
    ids = torch.randint(0, vocab, (len(targets), 5), generator=torch.Generator("cpu").manual_seed(8), device="cpu")
    ids = ids.to(targets.device)
    ids[:, 0], ids[:, 2], ids[::2, 3] = targets.clamp(min=0), ids[:, 1], -100
    return ids


def everything_further(stats: TokenStats) -> Tensor:
    """Reads all of them, not linearly, beside two that also need z - m."""
    picked = (stats.candidate_logprob.exp() * torch.arange(1, 6).to(stats.entropy)).sum(dim=1)
    return (
        -stats.tempered_logprob(0.7) * stats.top_mass(3)
        + stats.top_entropy(20) * stats.target_logprob / stats.rank.clamp(min=1)
        + picked.square()
        + 0.1 * stats.entropy * stats.collision
        + 0.2 * stats.mean_logprob
    )


def reference(hidden: Tensor, head: Head, targets: Tensor, c: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
    return (
        torch.where(targets == -100, 0.0, c)
        * everything_further(from_logits(head.logits(hidden), targets, extras=extras))
    ).sum()


def textbook(z: Tensor, targets: Tensor, ids: Tensor) -> dict[str, Tensor]:
    log_p, own = z.log_softmax(dim=1), z.gather(1, targets[:, None])
    p = log_p.exp().sort(dim=1, descending=True).values
    q = p[:, :3] / p[:, :3].sum(dim=1, keepdim=True)
    picked = torch.where(ids >= 0, log_p.gather(1, ids.clamp(min=0)), -1e4)
    return {
        "rank": 1.0 + (z > own).sum(dim=1),
        "top_mass(3)": p[:, :3].sum(dim=1),
        "top_entropy(3)": -(q * q.log()).sum(dim=1),
        "top_entropy(20)": torch.distributions.Categorical(probs=p[:, :20]).entropy(),
        "tempered_logprob(0.7)": (z / 0.7).log_softmax(dim=1).gather(1, targets[:, None])[:, 0],
        "candidate_logprob": picked,
    }


def test_entropy_of_the_likeliest_keeps_its_digits_where_one_has_nearly_all_the_mass() -> None:
    z, targets = torch.tensor([[0.0, -20.0, -21.0]]), torch.tensor([1])
    got, exact = (from_logits(z.to(dtype), targets).top_entropy(2) for dtype in (torch.float32, torch.float64))
    assert_close(exact, torch.tensor([21 * math.exp(-20)], dtype=torch.float64), rtol=1e-8, atol=0)
    assert_close(got.double(), exact, rtol=1e-5, atol=0)


def rows(vocab: int = 90) -> tuple[Tensor, Tensor, Tensor]:
    z = 3 * torch.randn(40, vocab, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, vocab, (40,), generator=torch.Generator().manual_seed(1))
    return z.requires_grad_(), targets, candidate_ids(targets)


@pytest.mark.parametrize("field", FIELDS)
def test_definition_is_the_textbook_formula_and_so_is_its_gradient(field: str) -> None:
    z, targets, ids = rows()
    expected = textbook(z, targets, ids)[field]
    got = from_logits(z, targets, fields=(field,), extras={"candidate_ids": ids}).fields[field]
    assert_close(got, expected.to(got.dtype), rtol=1e-10, atol=1e-12)
    if field.startswith(("tempered", "candidate")):
        upstream = torch.randn(got.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        mine, theirs = (torch.autograd.grad(value, z, upstream, retain_graph=True)[0] for value in (got, expected))
        assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    else:
        assert not got.requires_grad


WAYS = [("plain", kind, plan) for kind in KINDS for plan in PLANS]
WAYS += [("kernels", kind, plan) for kind in ("padded", "softcap") for plan in ("one_pass", "two_pass_one_tile")]


@pytest.mark.parametrize(("device", "kind", "name"), WAYS, ids=map(" ".join, WAYS))
def test_fused_loss_of_further_statistics_is_its_definition(
    device: str, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "kernels":
        pytest.importorskip("triton")
        monkeypatch.setattr(backend, "KERNEL_DEVICES", ["cpu"])
    head, (hidden, targets, c) = make_head(kind), make_tokens()
    extras = {"candidate_ids": candidate_ids(targets)}
    c[3] = 0
    wanted = reference(hidden, head, targets, c, extras)
    loss, stats = weighted_loss(hidden, head, targets, c, everything_further, extras=extras, plan=PLANS[name])
    assert_close(loss, wanted, rtol=1e-12, atol=1e-12)
    true = torch.autograd.grad(wanted * -1.7, parameters(hidden, head))
    got = torch.autograd.grad(loss * -1.7, parameters(hidden, head))
    for a, b in zip(true, got, strict=True):
        assert_close(b, a, rtol=1e-10, atol=1e-12)
    assert {"rank", "top_mass(3)", "candidate_logprob"} <= set(stats.fields)


def test_token_statistics_and_measured_norms_hold_them_too() -> None:
    head, (hidden, targets, _) = make_head("padded"), make_tokens()
    extras = {"candidate_ids": candidate_ids(targets)}
    logits = head.logits(hidden).detach().requires_grad_()
    true = from_logits(logits, targets, extras=extras)
    got = token_statistics(hidden, head, targets, fields=FIELDS, extras=extras, plan=Plan(tokens=2, columns=7))
    for field in FIELDS:
        assert_close(got.fields[field], true.fields[field], rtol=1e-10, atol=1e-12)
    measured, signals = measure_tokens(hidden, head, targets, {"all": everything_further}, extras=extras)
    losses = torch.where(targets == -100, 0.0, everything_further(true))
    (dz,) = torch.autograd.grad(losses.sum(), logits)
    assert_close(signals["all"].loss, losses.detach())
    assert_close(signals["all"].l2, dz.norm(dim=1))
    assert_close(measured.rank, true.rank)


@pytest.mark.parametrize("k", [1, 2, 7, 20, 200])
def test_largest_of_a_wide_row_are_those_of_a_sort(k: int) -> None:
    z = torch.randn(6, 1003, generator=torch.Generator().manual_seed(0))
    z[2, 5:] = float("-inf")
    z[3] = 0.5  # ties everywhere
    for block in (z, z.t().contiguous().t()):
        assert torch.equal(further.largest(block, k).sort(dim=1).values, z.sort(dim=1).values[:, -k:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0.0, 88.0, 1e4])
def test_values_and_gradients_are_finite_at_extreme_logits(dtype: torch.dtype, size: float) -> None:
    none = float("-inf")
    row = torch.tensor([[size, -size, 0.0, none], [-size, size, 0.0, none], [0.0, none, none, none]], dtype=dtype)
    ids = torch.tensor([[0, 1], [3, 1], [0, 3]])
    logits = row.requires_grad_()
    stats = from_logits(logits, torch.tensor([0, 0, 0]), extras={"candidate_ids": ids})
    values = [
        stats.tempered_logprob(0.1),
        stats.tempered_logprob(0.1) * stats.top_entropy(3),
        stats.candidate_logprob.sum(1),
    ]
    values += [stats.top_mass(2), stats.rank]
    total = sum(value.sum() for value in values)
    (gradient,) = torch.autograd.grad(total, logits)
    assert torch.isfinite(total) and torch.isfinite(gradient).all()


@pytest.mark.parametrize("gap", [0.0, 12.0, 17.0, 30.0, 60.0])
def test_log_probability_at_a_second_temperature_is_exact_where_the_target_is_nearly_certain(gap: float) -> None:
    logits = torch.tensor([[gap, 0.0, -1.0, 0.5]])
    low, true = (from_logits(z, torch.tensor([0])).tempered_logprob(2.0) for z in (logits, logits.double()))
    assert_close(low.double(), true, rtol=(gap + 6) * 2**-24, atol=0.0)  # rounding the gap moves exp(-gap) so much


def test_what_is_not_read_is_not_computed() -> None:
    head, (hidden, targets, c) = make_head("plain"), make_tokens()
    _, stats = weighted_loss(hidden, head, targets, c, lambda s: -s.tempered_logprob(0.7), plan=Plan("one_pass"))
    assert "tempered_logprob(0.7)" in stats.fields and not {"rank", "top_mass(3)", "entropy"} & set(stats.fields)
    with pytest.raises(AttributeError, match=r"'rank' was not computed"):
        _ = stats.rank


def test_a_number_that_makes_no_sense_is_refused() -> None:
    stats = from_logits(torch.zeros(1, 5), torch.tensor([0]))
    for wrong in ("top_mass(0)", "top_mass(2.5)", "tempered_logprob(0)", "top_mass", "tempered_logprob(x)", "rank(2)"):
        with pytest.raises(ValueError, match="there is no statistic"):
            token_statistics(torch.zeros(1, 2), Head(torch.zeros(5, 2)), torch.tensor([0]), fields=(wrong,))
    with pytest.raises(ValueError, match="there is no statistic 'top_mass\\(-1\\)'"):
        stats.top_mass(-1)
    with pytest.raises(ValueError, match="reads temperatures 0.5 and 0.7; a call computes one"):
        weighted_loss(
            torch.zeros(1, 2),
            Head(torch.zeros(5, 2)),
            torch.tensor([0]),
            torch.ones(1),
            lambda s: s.tempered_logprob(0.5) + s.tempered_logprob(0.7),
        )


def test_candidates_have_to_be_there_and_of_the_right_kind() -> None:
    call = (torch.zeros(2, 2), Head(torch.zeros(5, 2)), torch.tensor([0, 1]), torch.ones(2))
    with pytest.raises(KeyError, match="reads 'candidate_ids'"):
        weighted_loss(*call, lambda s: s.candidate_logprob.sum(1))
    for ids in (torch.zeros(2, dtype=torch.long), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="candidate_ids must be \\(tokens, K\\) integer ids"):
            weighted_loss(*call, lambda s: s.candidate_logprob.sum(1), extras={"candidate_ids": ids})


def test_statistics_travel_with_a_replaced_record() -> None:
    z, targets, ids = rows()
    stats = replace(from_logits(z, targets, extras={"candidate_ids": ids}), vocab_size=5)
    assert stats.rank.shape == (40,) and stats.candidate_logprob.shape == (40, 5)


def test_a_temperature_keeps_all_its_digits() -> None:
    logits, temperature = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64), 0.123456789
    stats = from_logits(logits, torch.tensor([1]))
    expected = (logits / temperature).log_softmax(1)[:, 1]
    torch.testing.assert_close(stats.tempered_logprob(temperature), expected, rtol=1e-12, atol=0)
    assert torch.equal(stats.tempered_logprob(2.0), stats.tempered_logprob(2))
