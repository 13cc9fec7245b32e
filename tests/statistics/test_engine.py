"""The chunked computation, both modes, against the definition on whole logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from sftloss.loss import weighted_loss
from sftloss.statistics import FIELDS, Head, Plan, TokenStats, from_logits, measure_tokens, token_statistics
from sftloss.statistics.backends import plain

KINDS = ["plain", "bias", "padded", "scale", "softcap", "low_rank", "low_rank_and_all"]
PLANS = {
    "one_pass": Plan("one_pass", tokens=3),
    "one_chunk": Plan("one_pass", tokens=1000),
    "two_pass": Plan("two_pass", tokens=4, columns=5),
    "two_pass_one_tile": Plan("two_pass"),
}


def everything(stats: TokenStats) -> torch.Tensor:
    """Reads all six differentiable statistics, not linearly."""
    return (
        -stats.target_logprob
        + 0.1 * stats.logsumexp.square()
        - 0.3 * stats.entropy
        + 0.2 * stats.mean_logprob
        + 0.5 * stats.collision * stats.entropy
        + 0.1 * torch.exp(0.5 * stats.other_logprob)
    )


def make_head(kind: str, vocab: int = 17, width: int = 6) -> Head:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(vocab, width, dtype=torch.float64, generator=generator).requires_grad_()
    bias = torch.randn(vocab, dtype=torch.float64, generator=generator)
    if kind == "padded":
        bias[-3:] = float("-inf")
    bias.requires_grad_()
    whole, factor = (part.detach().clone().requires_grad_() for part in (weight[:, :4], weight[:, 4:]))
    return {
        "plain": Head(weight),
        "bias": Head(weight, bias),
        "padded": Head(weight, bias),
        "scale": Head(weight, bias, scale=0.3),
        "softcap": Head(weight, bias, scale=2.0, softcap=5.0),
        # an adapter beside a frozen weight, as LoRA has it, and beside one that learns too
        "low_rank": Head(weight.detach()[:, :4], low_rank=weight[:, 4:].detach().clone().requires_grad_()),
        "low_rank_and_all": Head(whole, bias, scale=2.0, softcap=5.0, low_rank=factor),
    }[kind]


def make_tokens(tokens: int = 11, width: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(tokens, width, dtype=torch.float64, generator=generator).requires_grad_()
    targets = torch.randint(0, 14, (tokens,), generator=generator)
    coefficients = torch.randn(tokens, dtype=torch.float64, generator=generator)
    targets[3], coefficients[5] = -100, 0.0
    return hidden, targets, coefficients


def parameters(hidden: torch.Tensor, head: Head) -> list[torch.Tensor]:
    every = (hidden, head.weight, head.bias, head.low_rank)
    return [p for p in every if p is not None and p.requires_grad]


def reference(hidden: torch.Tensor, head: Head, targets: torch.Tensor, c: torch.Tensor, f: Callable) -> torch.Tensor:
    return (torch.where(targets == -100, 0.0, c) * f(from_logits(head.logits(hidden), targets))).sum()


WIDE = {"one_pass": Plan("one_pass"), "one_pass_blocks": Plan("one_pass", columns=41), "two_pass": Plan(columns=70)}


@pytest.mark.parametrize("kind", ["plain", "padded", "softcap", "low_rank_and_all"])
@pytest.mark.parametrize("plan", WIDE.values(), ids=WIDE)
def test_rows_with_gaps_and_sums_in_several_pieces_change_nothing(
    kind: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """72 tokens and 70 columns lie 96 apart; what is summed at once is less than a block, its last piece shorter."""
    monkeypatch.setattr(plain, "_CACHE_BYTES", 70 * 8 * 20)
    head, (hidden, targets, c) = make_head(kind, vocab=97), make_tokens(72)
    wanted = reference(hidden, head, targets, c, everything)
    loss = weighted_loss(hidden, head, targets, c, everything, plan=plan)[0]
    true = torch.autograd.grad(wanted, parameters(hidden, head))
    got = torch.autograd.grad(loss, parameters(hidden, head))
    for a, b in zip((wanted, *true), (loss, *got), strict=True):
        assert_close(b, a, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_fused_loss_is_its_definition_and_so_are_its_gradients(kind: str, plan: Plan) -> None:
    head, (hidden, targets, c) = make_head(kind), make_tokens()
    wanted = reference(hidden, head, targets, c, everything)
    loss, _ = weighted_loss(hidden, head, targets, c, everything, plan=plan)
    assert_close(loss, wanted, rtol=1e-12, atol=1e-12)
    # a random upstream gradient: ones would hide a factor applied twice
    true = torch.autograd.grad(wanted * -1.7, parameters(hidden, head))
    got = torch.autograd.grad(loss * -1.7, parameters(hidden, head))
    for a, b in zip(true, got, strict=True):
        assert_close(b, a, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("offset", [-700.0, -0.5, 0.0, 30.0, 59.0, 700.0])
@pytest.mark.parametrize("columns", [5, None])
def test_one_number_added_to_all_logits_changes_nothing(offset: float, columns: int | None) -> None:
    (hidden, targets, c), head = make_tokens(), make_head("padded")
    plan, bias = Plan("one_pass", tokens=4, columns=columns), head.bias
    assert bias is not None
    shifted = replace(head, bias=(bias.detach() + offset).requires_grad_())
    wanted, _ = weighted_loss(hidden, head, targets, c, plan=plan)
    loss, _ = weighted_loss(hidden, shifted, targets, c, plan=plan)
    assert_close(loss, wanted, rtol=1e-12, atol=1e-12)
    of_wanted = torch.autograd.grad(wanted, [hidden, head.weight, bias])
    of_loss = torch.autograd.grad(loss, [hidden, shifted.weight, shifted.bias])
    assert_close(of_loss, of_wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_gradcheck_holds_for_the_fused_loss(plan: Plan) -> None:
    head, (hidden, targets, c) = make_head("scale"), make_tokens()

    def function(h: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return weighted_loss(h, Head(w, b, 0.3), targets, c, everything, plan=plan)[0]

    assert torch.autograd.gradcheck(function, (hidden, head.weight, head.bias))


@pytest.mark.parametrize("kind", ["plain", "padded", "softcap", "low_rank_and_all"])
def test_token_statistics_are_the_definition_whatever_the_tiles(kind: str) -> None:
    head, (hidden, targets, _) = make_head(kind), make_tokens()
    true = from_logits(head.logits(hidden), targets)
    for plan in (Plan(), Plan(columns=1), Plan(tokens=2, columns=7)):
        got = token_statistics(hidden, head, targets, plan=plan)
        for name in FIELDS:
            assert_close(getattr(got, name), getattr(true, name), rtol=1e-10, atol=1e-12)
    upstream = torch.randn(len(FIELDS) - 3, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for stats in (true, got):
        total = sum((getattr(stats, n) * u).sum() for n, u in zip(FIELDS, upstream, strict=False))
        stats.fields["gradients"] = torch.autograd.grad(total, parameters(hidden, head))  # type: ignore[index]
    for a, b in zip(true.fields["gradients"], got.fields["gradients"], strict=True):
        assert_close(b, a, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("plan", [PLANS["one_pass"], PLANS["two_pass"]], ids=["one_pass", "two_pass"])
def test_low_precision_errs_at_most_twice_what_the_plain_formula_errs(dtype: torch.dtype, plan: Plan) -> None:
    generator = torch.Generator().manual_seed(6)
    hidden = torch.randn(64, 32, generator=generator, dtype=torch.float64).to(dtype)
    weight = (torch.randn(97, 32, generator=generator, dtype=torch.float64) * 0.3).to(dtype)
    targets, c = torch.randint(0, 97, (64,), generator=generator), torch.full((64,), 1 / 64)

    def run(cast: torch.dtype, is_ours: bool) -> list[torch.Tensor]:
        h, w = hidden.to(cast).requires_grad_(), weight.to(cast).requires_grad_()
        if is_ours:
            loss = weighted_loss(h, Head(w), targets, c, plan=plan)[0]
        else:
            loss = torch.nn.functional.cross_entropy(h @ w.t(), targets)
        return [loss.detach().double(), *(g.double() for g in torch.autograd.grad(loss, (h, w)))]

    for true, low, got in zip(run(torch.float64, False), run(dtype, False), run(dtype, True), strict=True):
        floor = torch.finfo(dtype).eps * true.abs().max()
        assert (got - true).abs().max() <= 2 * (low - true).abs().max() + floor


def test_float16_gradients_survive_a_tiny_coefficient_under_loss_scaling() -> None:
    """1/N = 1e-6 is subnormal in float16; formed from c / max|c| and scaled in backward, no digit is lost."""
    generator = torch.Generator().manual_seed(7)
    hidden = torch.randn(8, 16, generator=generator).half().requires_grad_()
    weight = torch.randn(31, 16, generator=generator).half().requires_grad_()
    targets, c = torch.randint(0, 31, (8,), generator=generator), torch.full((8,), 1e-6)
    loss, _ = weighted_loss(hidden, Head(weight), targets, c)
    got = torch.autograd.grad(loss * 65536.0, (hidden, weight))
    h, w = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    true = torch.autograd.grad(
        torch.nn.functional.cross_entropy(h @ w.t(), targets, reduction="sum") * 0.065536, (h, w)
    )
    for a, b in zip(true, got, strict=True):
        # one rounding to float16 (2^-11 relative, 2^-25 where subnormal) and float32 inside
        assert_close(b.double(), a, rtol=6e-4, atol=4e-8)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_nan_on_a_dropped_row_poisons_nothing(plan: Plan) -> None:
    head, (hidden, targets, c) = make_head("plain"), make_tokens()
    poisoned = hidden.detach().clone()
    poisoned[3] = poisoned[5] = float("nan")
    poisoned.requires_grad_()
    loss, stats = weighted_loss(poisoned, head, targets, c, everything, plan=plan)
    d_hidden, d_weight = torch.autograd.grad(loss, (poisoned, head.weight))
    assert torch.isfinite(loss) and torch.isfinite(d_weight).all() and torch.isfinite(d_hidden).all()
    assert (d_hidden[[3, 5]] == 0).all() and (d_hidden[[0, 1, 2]] != 0).any()
    assert stats.target_logprob[3] == 0


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("tokens", [0, 4])
def test_nothing_to_learn_is_a_connected_zero(plan: Plan, tokens: int) -> None:
    hidden = torch.randn(tokens, 6, requires_grad=True)
    weight, bias = torch.randn(9, 6, requires_grad=True), torch.zeros(9, requires_grad=True)
    targets = torch.full((tokens,), -100)
    loss, _ = weighted_loss(hidden, Head(weight, bias), targets, torch.ones(tokens), plan=plan)
    loss.backward()
    assert loss.item() == 0.0
    for parameter in (hidden, weight, bias):
        assert parameter.grad is not None and (parameter.grad == 0).all()


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_vocabulary_of_which_only_the_target_is_left_has_finite_gradients(plan: Plan) -> None:
    """In float32 the square of the sum over the rest, its smallest number, is 0: a collision of 0 / 0."""
    bias = torch.full((9,), float("-inf"))
    bias[4] = 0.0
    hidden, weight = torch.randn(2, 3).requires_grad_(), torch.randn(9, 3).requires_grad_()
    targets = torch.tensor([4, 4])
    loss, stats = weighted_loss(hidden, Head(weight, bias), targets, torch.ones(2), everything, plan=plan)
    for gradient in torch.autograd.grad(loss, (hidden, weight)):
        assert torch.isfinite(gradient).all()
    assert (stats.target_logprob.abs() < 1e-30).all()


@pytest.mark.parametrize("frozen", ["hidden", "head"])
@pytest.mark.parametrize("plan", [PLANS["one_pass"], PLANS["two_pass"]], ids=["one_pass", "two_pass"])
def test_a_frozen_half_costs_the_other_nothing(frozen: str, plan: Plan) -> None:
    head, (hidden, targets, c) = make_head("plain"), make_tokens()
    (hidden if frozen == "hidden" else head.weight).requires_grad_(False)
    learning = parameters(hidden, head)
    loss, _ = weighted_loss(hidden, head, targets, c, everything, plan=plan)
    (got,) = torch.autograd.grad(loss, learning)
    (true,) = torch.autograd.grad(reference(hidden, head, targets, c, everything), learning)
    assert_close(got, true, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_retained_graph_can_be_walked_twice(plan: Plan) -> None:
    head, (hidden, targets, c) = make_head("bias"), make_tokens()
    loss, _ = weighted_loss(hidden, head, targets, c, everything, plan=plan)
    first = torch.autograd.grad(loss, parameters(hidden, head), retain_graph=True)
    second = torch.autograd.grad(3 * loss, parameters(hidden, head))
    for a, b in zip(first, second, strict=True):
        assert_close(b, 3 * a, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_inputs_are_never_changed(plan: Plan) -> None:
    head, (hidden, targets, c) = make_head("bias"), make_tokens()
    before = [t.detach().clone() for t in (hidden, head.weight, head.bias, targets, c)]  # type: ignore[union-attr]
    weighted_loss(hidden, head, targets, c, everything, plan=plan)[0].backward()
    for a, b in zip(before, (hidden, head.weight, head.bias, targets, c), strict=True):
        assert torch.equal(a, b.detach())  # type: ignore[union-attr]


def test_without_gradient_nothing_is_kept() -> None:
    head, (hidden, targets, c) = make_head("plain"), make_tokens()
    with torch.no_grad():
        loss, stats = weighted_loss(hidden, head, targets, c)
    assert not loss.requires_grad and not stats.target_logprob.requires_grad
    assert_close(loss, reference(hidden, head, targets, c, lambda s: -s.target_logprob).detach())


@pytest.mark.parametrize("plan", [PLANS["one_pass"], PLANS["two_pass"]], ids=["one_pass", "two_pass"])
def test_extras_travel_with_their_tokens(plan: Plan) -> None:
    head, (hidden, targets, c) = make_head("plain"), make_tokens()
    gate = torch.rand(11, dtype=torch.float64)
    loss, _ = weighted_loss(
        hidden, head, targets, c, lambda s: -s.extras["gate"] * s.target_logprob, extras={"gate": gate}, plan=plan
    )
    assert_close(loss, reference(hidden, head, targets, c * gate, lambda s: -s.target_logprob))


def test_an_objective_that_mixes_tokens_is_refused_until_it_says_so() -> None:
    def centred(stats: TokenStats) -> torch.Tensor:
        return -stats.target_logprob * (stats.target_logprob.exp() > stats.target_logprob.exp().mean())

    head, (hidden, targets, c) = make_head("plain"), make_tokens()
    with pytest.raises(ValueError, match="mixes_tokens = True"):
        weighted_loss(hidden, head, targets, c, centred)
    centred.mixes_tokens = True  # type: ignore[attr-defined]
    loss, _ = weighted_loss(hidden, head, targets, c, centred)
    assert torch.isfinite(loss)


def test_an_objective_that_reduces_is_refused() -> None:
    head, (hidden, targets, c) = make_head("plain"), make_tokens()
    with pytest.raises(ValueError, match="one loss a token"):
        weighted_loss(hidden, head, targets, c, lambda s: -s.target_logprob.mean())


def test_only_what_is_read_is_computed() -> None:
    head, (hidden, targets, c) = make_head("plain"), make_tokens()
    _, stats = weighted_loss(hidden, head, targets, c)
    assert "entropy" not in stats.fields
    _, stats = weighted_loss(hidden, head, targets, c, plan=Plan(fields=("entropy",)))
    true = from_logits(head.logits(hidden), targets)
    kept = (targets != -100) & (c != 0)
    assert_close(stats.entropy[kept], true.entropy[kept].detach())


@pytest.mark.parametrize("kind", ["plain", "padded", "softcap", "low_rank_and_all"])
@pytest.mark.parametrize("names", [("ce",), ("ce", "everything")])
def test_measured_norms_are_those_of_the_gradient_in_the_logits(names: tuple[str, ...], kind: str) -> None:
    """By tiles, where the objectives read log p alone, and from the logits of a chunk."""
    head, (hidden, targets, _) = make_head(kind), make_tokens()
    objectives = {name: {"ce": lambda s: -s.target_logprob, "everything": everything}[name] for name in names}
    stats, signals = measure_tokens(hidden, head, targets, objectives, plan=Plan(tokens=4, columns=5))
    logits = head.logits(hidden).detach().requires_grad_()
    true = from_logits(logits, targets)
    for name in FIELDS:
        assert_close(getattr(stats, name), getattr(true, name).detach(), rtol=1e-10, atol=1e-12)
    for name, objective in objectives.items():
        losses = torch.where(targets == -100, 0.0, objective(true))
        (dz,) = torch.autograd.grad(losses.sum(), logits, retain_graph=True)
        assert_close(signals[name].loss, losses.detach())
        assert_close(signals[name].l1, dz.abs().sum(dim=1))
        assert_close(signals[name].l2, dz.norm(dim=1))


def test_norms_over_a_large_vocabulary_keep_their_digits() -> None:
    weight = 1 + 1e-3 * torch.linspace(0, 1, 40_000, dtype=torch.float64)[:, None]
    one = torch.ones(3, 1, dtype=torch.float64), weight, torch.tensor([5, 6, 7])
    l1 = []
    for dtype in (torch.float32, torch.float64):
        objectives = {"entropy": lambda s: -s.entropy - s.target_logprob}
        signals = measure_tokens(one[0].to(dtype), Head(one[1].to(dtype)), one[2], objectives)[1]
        l1.append(signals["entropy"].l1.double())
    assert_close(l1[0], l1[1], rtol=1e-6, atol=0)


def test_norms_of_a_certain_target_do_not_underflow() -> None:
    objectives, head = {"ce": lambda s: -s.target_logprob}, Head(torch.tensor([[60.0], [0.0], [0.0]]))
    signal = measure_tokens(torch.ones(1, 1), head, torch.tensor([0]), objectives)[1]["ce"]
    assert_close(signal.l2 / signal.l1, torch.tensor([6**0.5 / 4]))


ERRORS = {
    "width": (lambda h, w, y: (h[:, :3], w, y), "hidden is 3 wide, head.weight is .vocab 9, hidden 6"),
    "rank": (lambda h, w, y: (h[None], w, y), r"Flatten batch and time: hidden.reshape"),
    "shift": (lambda h, w, y: (h, w, y[:-1]), "shift first"),
    "id": (lambda h, w, y: (h, w, y + 9), "outside the vocabulary of 9"),
    "float ids": (lambda h, w, y: (h, w, y.float()), "integer token ids"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_wrong_input_gets_one_sentence_with_the_cure(case: str) -> None:
    change, message = ERRORS[case]
    hidden, weight, targets = change(torch.zeros(4, 6), torch.zeros(9, 6), torch.tensor([0, 1, 2, 3]))
    with pytest.raises(ValueError, match=message):
        weighted_loss(hidden, Head(weight), targets, torch.ones(targets.shape[0]))


def test_a_packed_quantised_head_is_refused() -> None:
    with pytest.raises(ValueError, match="Dequantise"):
        Head(torch.zeros(80, 1, dtype=torch.uint8))


class _Scaled(torch.nn.Module):
    """Cross-entropy times a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, stats: TokenStats) -> torch.Tensor:
        return -self.factor * stats.extras.get("gate", 1.0) * stats.target_logprob


def test_what_an_objective_learns_gets_its_gradient_or_one_pass_is_refused() -> None:
    head, (hidden, targets, c), objective = make_head("plain"), make_tokens(), _Scaled()
    gate = torch.rand(11, dtype=torch.float64, requires_grad=True)
    loss = weighted_loss(hidden, head, targets, c, objective, extras={"gate": gate})[0]
    got = torch.autograd.grad(loss, (objective.factor, gate, hidden))
    logprobs = from_logits(head.logits(hidden), targets).target_logprob
    wanted = (torch.where(targets == -100, 0.0, c) * -objective.factor * gate * logprobs).sum()
    for a, b in zip(torch.autograd.grad(wanted, (objective.factor, gate, hidden)), got, strict=True):
        assert_close(b, a, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="parameters, extras or coefficients require a gradient. Use Plan"):
        weighted_loss(hidden, head, targets, c, objective, plan=Plan("one_pass"))
    with torch.no_grad():  # nothing wants one here
        weighted_loss(hidden, head, targets, c, objective, plan=Plan("one_pass"))


@pytest.mark.parametrize("plan", [Plan("one_pass"), Plan("two_pass")], ids=["one_pass", "two_pass"])
def test_a_known_number_of_tokens_changes_nothing_and_a_wrong_one_raises(plan: Plan) -> None:
    head, (hidden, targets, c) = make_head("plain"), make_tokens()
    number = int(((targets != -100) & (c != 0)).sum())
    exact, known = (
        torch.autograd.grad(weighted_loss(hidden, head, targets, c, plan=how)[0], (hidden, head.weight))
        for how in (plan, replace(plan, counted=number))
    )
    assert all(torch.equal(a, b) for a, b in zip(exact, known, strict=True))
    for wrong in (number - 1, number + 1):
        with pytest.raises(RuntimeError, match=f"counted={wrong} is not the number"):
            weighted_loss(hidden, head, targets, c, plan=replace(plan, counted=wrong))


def test_a_known_number_of_tokens_may_leave_out_coefficients_of_zero_that_learn() -> None:
    head, (hidden, targets, c) = make_head("plain"), make_tokens()
    c.requires_grad_()
    plan = Plan(counted=int(((targets != -100) & (c != 0)).sum()))
    (got,) = torch.autograd.grad(weighted_loss(hidden, head, targets, c, plan=plan)[0], c)
    logprobs = from_logits(head.logits(hidden), targets).target_logprob
    assert_close(got, torch.where(targets == -100, 0.0, -logprobs.detach()))
