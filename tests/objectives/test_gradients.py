"""Every objective's gradient is its paper's: values alone are blind to a missing stop-gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.objectives.closed_forms import CLOSED_FORMS, softmax
from tests.objectives.rows import made_up_extras
from torch import Tensor
from torch.testing import assert_close

from sftloss.loss import weighted_loss
from sftloss.objectives import (
    OBJECTIVES,
    cross_entropy,
    dft,
    entropy_bonus,
    extras_of,
    focal,
    gem_log_sigmoid,
    infosft,
    objective,
    poly_1,
    sequence_values_of,
    z_loss,
)
from sftloss.statistics import Head, TokenStats, from_logits

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in OBJECTIVES),
    ("label_smoothing", {"epsilon": 0.3, "convention": "others"}),
    ("label_smoothing", {"epsilon": 1.0}),
    ("kl_anchor", {"direction": "reverse"}),
    ("gift", {"beta": 1.0}),
    ("eksft", {"entropy": 0.5, "kl": 2.0}),
    ("eksft", {"entropy": 9.0, "kl": 9.0}),
    ("focal", {"gamma": 0.5, "alpha": 0.25}),
    ("focal", {"gamma": 1.0}),
    ("focal", {"gamma": 5.0}),
    ("poly_1", {"epsilon": -1.0}),
    ("poly_1", {"epsilon": 4.0}),
    ("gce", {"q": 0.0}),
    ("gce", {"q": 10.0}),
    ("profit", {"low": 0.05, "high": 0.6}),
    ("profit", {"low": 0.0, "high": 0.3, "q": 1.0}),
    ("gold", {"floor": 0.5}),
    ("tailr", {"gamma": 0.0}),
    ("tailr", {"gamma": 1.0, "floor": 0.2}),
    ("infosft", {"threshold": 0.7}),
    ("luffy", {"gamma": 2.0}),
    ("mile", {"gamma": 0.5}),
    ("eaft", {"alpha": 2.0, "scale": "axolotl"}),
    ("eaft", {"scale": "llama_factory"}),
    ("dco", {"samples": 1}),
    ("dco", {"samples": 256}),
    ("inverse_focal", {"gamma": 2.0}),
    ("exponentiated_ce", {"gamma": 1.0}),
    ("taylor_ce", {"terms": 6}),
    ("dice", {"gamma": 0.0}),
    ("huberised_ce", {"tau": 1.0}),
    ("iw_sft", {"temperature": 2.0, "low": 0.0, "high": 16.0}),
    ("psft", {"high": 3.0}),
    ("rho_1", {"threshold": 0.5}),
    ("ss_token", {"threshold": -1.0}),
    ("jensen_shannon", {"weight": 0.01}),
    ("jensen_shannon", {"weight": 0.9}),
    ("label_relaxation", {"alpha": 0.5}),
    ("label_relaxation", {"alpha": 0.0}),
    ("agce", {"a": 0.1, "q": 0.5}),
    ("eaft_top", {"k": 3, "alpha": 2.0}),
    ("eaft_top", {"scale": "llama_factory"}),
    ("sed_sft", {"weight": 3.0, "k": 3}),
    ("gem", {"beta": 2.0}),
    ("target_sft", {"gamma": 0.0, "temperature": 1.5}),
    ("unlikelihood_context", {"alpha": 0.3}),
    ("number_token", {"convention": "paper"}),
    ("idk", {"upper": 1.0}),
    ("talr", {"tau": 0.5, "floor": 0.2}),
    ("symmetric_ce", {"alpha": 6.0, "beta": 0.1, "log_zero": -9.21}),
    ("loss_truncation", {"threshold": 1.0}),
    ("aul", {"a": 3.0, "q": 0.5}),
    ("ael", {"a": 0.5}),
    ("pear", {"gamma": 0.9}),
    ("unlikelihood", {"alpha": 0.0}),
    ("unlikelihood", {"alpha": 0.3}),
    ("pear", {"level": "sequence"}),
    ("pear", {"level": "block", "gamma": 0.9}),
    ("iw_sft_sequence", {"temperature": 2.0, "high": 1.0}),
    ("rank_tuner", {"q": 0.0}),
    ("rank_tuner", {"q": 0.5}),
    ("prift_mass", {"threshold": 0.9}),
]


def logits_and_targets(padded: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(12, 9, generator=generator, dtype=torch.float64)
    if padded:
        logits[:, 7:] = float("-inf")
        logits[3, 0] = float("-inf")
    targets = 1 + torch.randint(0, 6, (12,), generator=generator)
    return logits.requires_grad_(), targets


def gradient(loss: Tensor, logits: Tensor, upstream: Tensor | None = None) -> Tensor:
    return torch.autograd.grad(loss, logits, torch.ones_like(loss) if upstream is None else upstream)[0]


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize(("name", "hyper"), VARIANTS, ids=[f"{name}-{hyper}" for name, hyper in VARIANTS])
def test_gradient_is_the_closed_form_of_the_paper(name: str, hyper: dict[str, Any], padded: bool) -> None:
    logits, targets = logits_and_targets(padded)
    upstream = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    extras = made_up_extras(OBJECTIVES[name], upstream)
    actual = gradient(OBJECTIVES[name](from_logits(logits, targets, extras=extras), **hyper), logits, upstream)
    expected = upstream[:, None] * CLOSED_FORMS[name](logits.detach(), targets, **extras, **hyper)
    assert_close(actual, expected, rtol=1e-10, atol=1e-12)  # float64, a few operations on numbers of size 10


def test_dft_gradient_is_cross_entropy_gradient_times_p() -> None:
    """arXiv:2508.05629: p multiplies the gradient and is not differentiated."""
    logits, targets = logits_and_targets(padded=False)
    stats = from_logits(logits, targets)
    (expected,) = torch.autograd.grad(cross_entropy(stats).sum(), logits, retain_graph=True)
    (actual,) = torch.autograd.grad(dft(stats).sum(), logits)
    assert_close(actual, stats.target_logprob.detach().exp()[:, None] * expected)


def test_dft_gradient_is_that_of_minus_p_the_generalised_cross_entropy_of_q_one() -> None:
    logits, targets = logits_and_targets(padded=False)
    minus_p = -from_logits(logits, targets).target_logprob.exp()
    assert_close(gradient(dft(from_logits(logits, targets)), logits), gradient(minus_p, logits))


SAME_GRADIENT = [
    ("dft", "gce(q=1)"),
    ("dft", "gold(floor=0)"),
    ("dft", "tailr(gamma=1)"),
    ("dft", "taylor_ce(terms=1)"),
    ("dft", "huberised_ce(tau=1)"),
    ("dft", "agce(a=1, q=1)"),
    ("gce(q=2)", "profit(low=0, q=2)"),
    ("gce(q=1e-9)", "cross_entropy"),
    ("huberised_ce(tau=1e9)", "cross_entropy"),
    ("jensen_shannon(weight=1e-9)", "cross_entropy"),
    ("poly_1(epsilon=-1) + dft", "cross_entropy"),
    ("symmetric_ce(alpha=0.1, beta=1, log_zero=-4)", "0.1 * poly_1(epsilon=40)"),
    ("talr(tau=2)", "gce(q=0.5)"),
    ("aul(q=1)", "dft"),
    ("loss_truncation(threshold=0.6931471805599453)", "profit(low=0.5)"),
    ("gem(beta=1)", "cross_entropy"),
    ("target_sft(gamma=0.5, temperature=1)", "0.5 * cross_entropy"),
    ("eaft_top(k=9)", "eaft(scale='axolotl') / 2.1972245773362196"),
]


@pytest.mark.parametrize(("one", "other"), SAME_GRADIENT)
def test_objectives_with_the_same_gate_have_the_same_gradient(one: str, other: str) -> None:
    """Also where one tends to the other: then to the size of what is left out."""
    logits, targets = logits_and_targets(padded=False)
    first, second = (gradient(objective(text)(from_logits(logits, targets)), logits) for text in (one, other))
    assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_infosft_learns_most_at_a_probability_of_0_57_and_nothing_beyond_its_threshold() -> None:
    p = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()], dim=1).requires_grad_()
    gates = gradient(infosft(from_logits(logits, torch.zeros(999, dtype=torch.long))), logits)[:, 0] / (p - 1)
    assert round(gates.max().item(), 3) == 0.508 and round(p[gates.argmax()].item(), 2) == 0.57
    assert (gates[p >= 0.93] == 0).all() and (gates[p < 0.93] > 0).all()


def test_dft_never_pushes_an_improbable_target_down() -> None:
    """With the gate differentiated, p (1 + log p) is negative below p = 1/e; the value would not show it."""
    logits = torch.tensor([[-3.0, 0.0, 0.0]], requires_grad=True)
    stats = from_logits(logits, torch.tensor([0]))
    leaky = -stats.target_logprob.exp() * stats.target_logprob
    assert_close(leaky, dft(stats))
    assert gradient(leaky, logits)[0, 0] > 0  # descent would lower the target's logit
    assert gradient(dft(from_logits(logits, torch.tensor([0]))), logits)[0, 0] < 0


def test_entropy_bonus_added_with_a_positive_coefficient_raises_the_entropy() -> None:
    logits, targets = logits_and_targets(padded=False)
    stats = from_logits(logits, targets)
    step = logits.detach() - 0.1 * gradient(0.1 * entropy_bonus(stats), logits)
    assert (from_logits(step, targets).entropy > stats.entropy).all()


def test_cross_entropy_with_entropy_bonus_is_the_confidence_penalty() -> None:
    """arXiv:1701.06548: -log p - beta H."""
    logits, targets = logits_and_targets(padded=False)
    stats = from_logits(logits, targets)
    p = logits.softmax(dim=1)
    penalised = -p.gather(1, targets[:, None])[:, 0].log() - 0.1 * -(p * p.log()).sum(dim=1)
    assert_close(cross_entropy(stats) + 0.1 * entropy_bonus(stats), penalised)


def test_z_loss_feels_a_shift_of_all_logits_to_which_cross_entropy_is_blind() -> None:
    logits, targets = logits_and_targets(padded=False)
    stats = from_logits(logits, targets)
    along_shift = gradient(z_loss(stats), logits).sum(dim=1)
    assert_close(along_shift, 2 * stats.logsumexp.detach())
    blind = gradient(cross_entropy(from_logits(logits, targets)), logits).sum(dim=1)
    assert_close(blind, torch.zeros_like(blind))


def test_focal_and_poly_1_gates_order_tokens_by_confidence_in_opposite_ways() -> None:
    """Focal at gamma 2 learns most from doubtful tokens; Poly-1 with epsilon > 0 from certain ones."""
    logits = torch.stack([torch.tensor([gap, 0.0]) for gap in (0.0, 2.0, 4.0)]).double().requires_grad_()
    targets = torch.zeros(3, dtype=torch.long)
    plain = gradient(cross_entropy(from_logits(logits, targets)), logits)
    gates = [gradient(f(from_logits(logits, targets)), logits)[:, 0] / plain[:, 0] for f in (focal, poly_1)]
    assert (gates[0].diff() < 0).all()
    assert (gates[1].diff() > 0).all()


EXTREME = [*((name, {}) for name in OBJECTIVES), *(("focal", {"gamma": gamma}) for gamma in (0.0, 0.5, 1.0))]


@pytest.mark.parametrize(("name", "hyper"), EXTREME, ids=[f"{name}-{hyper}" for name, hyper in EXTREME])
@pytest.mark.parametrize("gap", [0.0, 20.0, 60.0, 1e4, -60.0, -1e4])
def test_value_and_gradient_are_finite_at_extreme_logits(name: str, hyper: dict[str, float], gap: float) -> None:
    logits = torch.tensor([[gap, 0.0, -1.0, float("-inf")]], requires_grad=True)
    extras = made_up_extras(OBJECTIVES[name], torch.zeros(1))
    loss = OBJECTIVES[name](from_logits(logits, torch.tensor([0]), extras=extras), **hyper)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient(loss, logits)).all()


def test_focal_keeps_its_precision_where_one_minus_p_is_below_float32_epsilon() -> None:
    """1 - exp(log p) would be 0 here: at a gap of 30 the true 1 - p is 9.4e-14."""
    logits = torch.tensor([[30.0, 0.0]], requires_grad=True)
    loss = focal(from_logits(logits, torch.tensor([0])), gamma=0.5)
    truth = focal(from_logits(logits.detach().double(), torch.tensor([0])), gamma=0.5)
    assert_close(loss.double(), truth, rtol=1e-5, atol=0.0)  # a float32 exp of -15: 15 ulp
    # the closed form itself cancels here; its leading term is q^0.5 (1 + 0.5) (-q)
    assert_close(gradient(loss, logits)[0, 0].double(), -1.5 * torch.tensor(-45.0).double().exp(), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_possible_token_has_loss_zero_or_its_logit_and_a_finite_gradient(name: str) -> None:
    """log(1 - p) may be -inf: there is no other token."""
    logits = torch.tensor([[0.0, float("-inf")]], requires_grad=True)
    names = (*extras_of(OBJECTIVES[name]), *sequence_values_of(OBJECTIVES[name]))
    sizes = {extra: (1, 1) if "candidate" in extra else (1,) for extra in names}
    certain = {extra: torch.zeros(size) for extra, size in sizes.items()}  # the reference model is certain too
    if "candidate_ids" in certain:
        certain["candidate_ids"] = torch.tensor([[1 if name == "unlikelihood_context" else 0]])
    loss = OBJECTIVES[name](from_logits(logits, torch.tensor([0]), extras=certain))
    assert loss.abs().max() < 1e-6  # the log of one, through a floor that keeps it finite
    assert torch.isfinite(gradient(loss, logits)).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_takes_a_log_of_one_minus_p_that_is_minus_infinity(gamma: float) -> None:
    certain = torch.zeros(1, requires_grad=True)
    rest = torch.full((1,), float("-inf"), requires_grad=True)
    loss = focal(TokenStats({"target_logprob": certain, "other_logprob": rest}), gamma=gamma)
    gradients = torch.autograd.grad(loss, (certain, rest))
    assert loss.item() == 0 and all(torch.isfinite(g).all() for g in gradients)


def test_dft_of_an_impossible_target_is_zero_not_nan() -> None:
    impossible = torch.full((1,), float("-inf"), requires_grad=True)
    loss = dft(TokenStats({"target_logprob": impossible}))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, impossible)[0].item() == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_ignored_token_has_loss_zero_and_no_gradient(name: str) -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    extras = made_up_extras(OBJECTIVES[name], torch.zeros(3))
    extras = {extra: value * torch.tensor([1, 0, 1]) if value.ndim == 1 else value for extra, value in extras.items()}
    loss = OBJECTIVES[name](from_logits(logits, torch.tensor([1, -100, 2]), extras=extras))
    assert loss[1].item() == 0
    assert gradient(loss, logits)[1].abs().max() == 0


def test_gem_with_log_sigmoid_has_half_the_gradient_of_gem() -> None:
    """Its gradient is q sigmoid(0.01 (z - z_y)) off the target; half of gem's, 2 to 3% apart at this spread."""
    logits = 2 * torch.randn(400, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets, logits = torch.arange(400), logits.requires_grad_()
    actual = gradient(gem_log_sigmoid(logits, targets), logits)
    own = logits.detach().gather(1, targets[:, None])
    expected = softmax(logits.detach() / 0.7) * torch.sigmoid(0.01 * (logits.detach() - own))
    expected.scatter_(1, targets[:, None], 0.0).scatter_(1, targets[:, None], -expected.sum(dim=1, keepdim=True))
    assert_close(actual, expected, rtol=1e-10, atol=1e-15)
    half = 0.5 * gradient(OBJECTIVES["gem"](from_logits(logits, targets)), logits)
    assert 0.02 < (actual - half).norm() / half.norm() < 0.03


@pytest.mark.parametrize("text", ["gem(kind='log_sigmoid')", "0.5 * dft + 2 * gem(kind='log_sigmoid', beta=0.9)"])
def test_gem_with_log_sigmoid_is_written_as_every_objective(text: str) -> None:
    """The fused loss is the sum over tokens of the loss of logits, with its gradients; an ignored token has none."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 6, dtype=torch.float64, generator=generator).requires_grad_() for n in (5, 9))
    targets, c = torch.tensor([3, -100, 8, 0, 1]), torch.tensor([0.5, 1.0, -0.2, 0.0, 0.3], dtype=torch.float64)
    loss, stats = weighted_loss(hidden, Head(weight), targets, c, text)
    logits, at = hidden @ weight.T, [0, 2, 4]  # the other two have no target or the coefficient 0
    expected = 0.0
    for term in objective(text).terms:
        beta = dict(term.hyper_parameters).get("beta", 0.7)
        of_logits = gem_log_sigmoid(logits[at], targets[at], beta=beta)
        losses = of_logits if term.name == "gem" else OBJECTIVES[term.name](from_logits(logits[at], targets[at]))
        expected = expected + term.coefficient * (c[at] * losses).sum()
    assert_close(loss, expected, rtol=1e-9, atol=0)
    actual = torch.autograd.grad(loss, (hidden, weight))
    assert_close(actual, torch.autograd.grad(expected, (hidden, weight)), rtol=1e-9, atol=1e-12)
    assert all(not value.requires_grad for value in stats.extras.values()) and (actual[0][[1, 3]] == 0).all()
    assert_close((c * torch.where(targets >= 0, objective(text)(stats), 0)).sum(), loss.detach(), rtol=1e-9, atol=0)
    with torch.no_grad():
        assert_close(weighted_loss(hidden, Head(weight), targets, c, text)[0], loss.detach(), rtol=1e-9, atol=0)
    with pytest.raises(KeyError, match="computed of whole logits, which weighted_loss and sftloss train do"):
        objective(text)(from_logits(logits, targets))


@pytest.mark.parametrize(
    "expression",
    ["gce", "luffy(gamma=0.1)", "dice", "psft", "profit(q=0.7)", "jensen_shannon", "taylor_ce"],
)
def test_gradient_of_a_hopeless_target_keeps_its_digits(expression: str) -> None:
    """The derivative of expm1, taken from its rounded value, would be 0 where p is below 1e-8."""
    function, gradients = objective(expression), []
    for dtype in (torch.float64, torch.float32):
        logits = torch.tensor([[-5.0, 0.0, 1.0], [-19.0, 0.0, 1.0]], dtype=dtype, requires_grad=True)
        extras = made_up_extras(function, logits[:, 0].detach())
        losses = function(from_logits(logits, torch.tensor([0, 0]), extras=extras))
        gradients.append(torch.autograd.grad(losses.sum(), logits)[0].double())
    assert_close(gradients[1], gradients[0], rtol=2e-5, atol=0)


def test_dco_of_a_certain_target_keeps_its_digits() -> None:
    results = []
    for dtype in (torch.float64, torch.float32):
        logits = torch.tensor([[5.0, 0.0, 1.0]], dtype=dtype, requires_grad=True)
        losses = objective("dco(samples=8)")(from_logits(logits, torch.tensor([0])))
        results.append(torch.cat([losses.detach()[:, None], *torch.autograd.grad(losses.sum(), logits)], 1).double())
    assert_close(results[1], results[0], rtol=1e-5, atol=0)
