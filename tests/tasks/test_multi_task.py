"""MultiTaskLoss: the tutorial's call form and the one for tokens, held to the tutorial's flaws one by one."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from sftloss.tasks import STRATEGIES, MultiTaskLoss, Rules, task_sums
from sftloss.tasks.strategies import EXTRA, dwa, performance_based
from sftloss.weights import coefficients

NAMES = ["qa", "summaries", "translation", "classes"]
EVERY = list(STRATEGIES)
LOSS_ONLY = [name for name, make in STRATEGIES.items() if make().needs != "gramian"]
every_loss_only = pytest.mark.parametrize("name", LOSS_ONLY)


def losses_at(step: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1000 * seed + step)
    values = torch.rand(4, generator=generator, dtype=torch.float64) + 0.2
    return dict(zip(NAMES, values, strict=True))


def seen(module: MultiTaskLoss, losses: Mapping[str, Tensor] | Tensor, *rest: Tensor) -> None:
    """The extra forward pass, if the strategy has one."""
    if module.strategy.needs in EXTRA:
        module.observe_extra(losses, *rest)


def gramian_at(step: int) -> Tensor:
    """Of gradients of unequal length, some of which conflict."""
    generator = torch.Generator().manual_seed(step)
    rows = torch.randn(4, 6, generator=generator, dtype=torch.float64) * torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    return rows @ rows.T


def trained(module: MultiTaskLoss, steps: int, start: int = 0) -> MultiTaskLoss:
    for step in range(start, start + steps):
        module(losses_at(step))
        seen(module, losses_at(step, seed=1))
        module.step(gramian_at(step))
    return module


def tokens(seed: int, count: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, tasks (some none, the last task absent) and weights (some 0) of tokens."""
    generator = torch.Generator().manual_seed(seed)
    losses = torch.rand(count, generator=generator, dtype=torch.float64)
    ids = torch.randint(-1, 3, (count,), generator=generator)
    weights = torch.randint(0, 3, (count,), generator=generator).double()
    return losses, ids, weights


@pytest.mark.parametrize("name", EVERY)
def test_derivative_of_the_total_in_a_loss_is_its_weight(name):
    """Tutorial flaws B28 and 2: two of four tasks were ascended."""
    module = trained(MultiTaskLoss(NAMES, name), 60)
    now = {key: value.requires_grad_() for key, value in losses_at(60).items()}
    total, _ = module(now)
    slopes = torch.autograd.grad(total, list(now.values()))
    assert torch.equal(torch.stack(slopes), module.weights)
    # a dict's losses count as one each: equal sizes; and noise without a fall is no slope
    if name not in ("static", "temperature", "performance_based"):
        assert (module.weights != 1).any()


@pytest.mark.parametrize("name", EVERY)
def test_no_graph_outlives_its_step(name):
    """Tutorial flaw 1: the second backward raised, and buffers held a graph, which cannot be copied."""
    module, leaf = MultiTaskLoss(NAMES, name), torch.ones((), requires_grad=True)
    for step in range(3):
        total, info = module({key: leaf * value for key, value in losses_at(step).items()})
        total.backward()
        seen(module, {key: leaf * value for key, value in losses_at(step, seed=1).items()})
        module.step(torch.eye(4, dtype=torch.float64))
        assert not info["total_loss"].requires_grad
    assert not any(buffer.requires_grad for buffer in copy.deepcopy(module).buffers())


def test_derivative_in_the_mean_of_a_tasks_tokens_is_its_weight():
    module = trained(MultiTaskLoss(NAMES, "gls"), 3)
    losses, ids, weights = tokens(0)
    leaf = losses.requires_grad_()
    module(leaf, ids, weights)[0].backward()
    _, counts = task_sums(losses, ids, count=4, weights=weights)
    for task in range(3):
        # d mean_k / d l_i = u_i / N_k
        assert_close(leaf.grad[ids == task], module.weights[task] * weights[ids == task] / counts[task])
    assert (leaf.grad[ids == -1] == 0).all()


def test_equal_weights_on_token_means_are_plain_training_bit_for_bit():
    module = MultiTaskLoss(NAMES, "static", rules=Rules(base="token_mean"))
    losses, ids, weights = tokens(1)
    losses, weights, ids = losses.float(), weights.float(), ids.clamp(min=0)
    trained(module, 3)
    assert torch.equal(module(losses, ids, weights)[0], (coefficients(weights, weights.double().sum()) * losses).sum())


@pytest.mark.parametrize("name", EVERY)
def test_one_task_is_the_plain_loss_bit_for_bit(name):
    module = MultiTaskLoss(["only"], name)
    losses, _, weights = tokens(2)
    losses, weights = losses.float(), weights.float()
    for _ in range(4):
        total, _info = module(losses, torch.zeros(40, dtype=torch.long), weights)
        assert torch.equal(total, (coefficients(weights, weights.double().sum()) * losses).sum())
        seen(module, losses, torch.zeros(40, dtype=torch.long), weights)
        module.step(torch.full((1, 1), 3.0))
        assert module.weights.tolist() == [1.0]


@every_loss_only
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 40), max_size=4), seed=st.integers(0, 99))
def test_any_split_of_a_step_into_micro_batches_is_the_same_step(name, cuts, seed):
    """Tutorial flaw 15: counters counted micro-batches and weights came from local means."""
    whole, split = MultiTaskLoss(NAMES, name), MultiTaskLoss(NAMES, name)
    edges = [0, *sorted(cuts), 40]
    for step in range(3):
        data = tokens(seed + step)
        leaf, leaf_split = (data[0].clone().requires_grad_() for _ in range(2))
        whole(leaf, *data[1:])[0].backward()
        parts = [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
        totals = split.totals((data[2][part], data[1][part]) for part in parts)
        for part in parts:
            split(leaf_split[part], data[1][part], data[2][part], totals=totals)[0].backward()
            seen(split, data[0][part].sqrt(), data[1][part], data[2][part])
        # float64: the order of addition only
        assert_close(leaf_split.grad, leaf.grad, rtol=1e-12, atol=1e-14)
        seen(whole, data[0].sqrt(), *data[1:])
        whole.step()
        split.step()
        assert_close(split.weights, whole.weights, rtol=1e-11, atol=0)


def test_mean_of_micro_batch_means_is_another_loss():
    """Negative control of the law above."""
    losses, ids, weights = tokens(3)
    module = MultiTaskLoss(NAMES, "static")
    parts = [slice(0, 7), slice(7, 40)]
    means = sum(module(losses[part], ids[part], weights[part])[0] for part in parts) / 2
    assert abs(means - module(losses, ids, weights)[0]) > 1e-3


def test_coefficients_before_the_pass_are_the_loss():
    module, (losses, ids, weights) = trained(MultiTaskLoss(NAMES), 4), tokens(4)
    assert_close((module.coefficients(weights, ids) * losses).sum(), module(losses, ids, weights)[0])


def test_the_fused_loss_under_the_coefficients_is_observed_from_the_same_pass():
    """Coefficients, one pass, and its own statistics: no second pass, and the same weights."""
    from sftloss import Head, weighted_loss

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(12, 5, generator=generator, requires_grad=True)
    head, targets = Head(torch.randn(9, 5, generator=generator)), torch.randint(0, 9, (12,), generator=generator)
    ids, weights = torch.arange(12) % 3, torch.ones(12)
    fused, plain = MultiTaskLoss(NAMES), MultiTaskLoss(NAMES)
    loss, stats = weighted_loss(hidden, head, targets, fused.coefficients(weights, ids))
    fused.observe(-stats.target_logprob, ids, weights)
    expected, _ = plain(nn.functional.cross_entropy(hidden @ head.weight.T, targets, reduction="none"), ids, weights)
    fused.step()
    plain.step()
    assert_close(loss, expected)  # float32, two orders of addition
    assert_close(fused.weights, plain.weights, rtol=1e-6, atol=0)


def test_tasks_may_be_given_by_row():
    losses, ids = torch.rand(3, 5), torch.tensor([0, 2, 0])
    by_row = MultiTaskLoss(NAMES)(losses, ids)[0]
    assert torch.equal(by_row, MultiTaskLoss(NAMES)(losses, ids[:, None].expand(3, 5))[0])


def test_an_absent_task_is_none_and_changes_no_other_weight():
    """Tutorial flaws B27 and 3: it counted as a loss of 0."""
    module = trained(MultiTaskLoss(NAMES, "uncertainty"), 5)
    before, known = module.weights.clone(), module.state["loss"].clone()
    part = losses_at(9)
    del part["translation"]
    total, info = module(part)
    assert info["individual_losses"]["translation"] is None and info["weighted_losses"][2] is None
    assert_close(total, sum(before[NAMES.index(name)] * loss for name, loss in part.items()))
    module.step()
    assert module.state["loss"][2] == known[2] and (module.state["loss"][[0, 1, 3]] != known[[0, 1, 3]]).all()
    statistics = module.get_task_statistics()["translation"]
    assert statistics["num_updates"] == 5 and statistics["steps_since_seen"] == 1


def test_a_task_never_seen_has_no_statistics_and_weight_one():
    module = MultiTaskLoss([*NAMES, "never"], "gls")
    for step in range(3):
        module(losses_at(step))
        module.step()
    four = trained(MultiTaskLoss(NAMES, "gls"), 3)
    assert torch.equal(module.weights[:4], four.weights) and module.weights[4] == 1
    told = module.get_task_statistics()["never"]
    assert told["current_loss"] is None and told["average_loss"] is None and told["loss_trend"] == "insufficient data"
    assert told["steps_since_seen"] is None


def test_a_step_without_any_task_is_a_zero_with_a_graph():
    """So that a rank without tasks takes part in backward; tutorial flaw 17: a bare StopIteration."""
    module = trained(MultiTaskLoss(NAMES), 3)
    before = copy.deepcopy(module)
    total, _ = module({})
    total.backward()
    leaf = torch.ones(2, requires_grad=True)
    none, info = module(leaf, torch.tensor([-1, -1]))
    none.backward()
    assert total == 0 and none == 0 and leaf.grad.tolist() == [0, 0]
    assert all(value.isnan() for value in info["individual_losses"].values())
    module.step()
    before.steps += 1
    assert_same(module, before)


def test_a_negative_loss_is_present():
    """Tutorial flaw B33: `loss > 0` took it for absent."""
    module = MultiTaskLoss(["a", "b"], "performance_based")
    module({"a": torch.tensor(-0.5), "b": torch.tensor(1.0)})
    module.step()
    assert module.get_task_statistics()["a"]["current_loss"] == -0.5


def test_losses_of_several_dtypes_add_in_float32_or_better():
    """Tutorial flaw B33: stacking them failed."""
    module = MultiTaskLoss(["a", "b"], "static")
    total, _ = module({"a": torch.tensor(1.0, dtype=torch.bfloat16), "b": torch.tensor(2.0**-12)})
    assert total.dtype == torch.float32 and total == 1 + 2.0**-12


@pytest.mark.parametrize("name", EVERY)
def test_every_strategy_moves_its_weights_in_a_short_run(name):
    """Tutorial flaws B31 and 7: in its demonstration three strategies printed identical rows."""
    module = MultiTaskLoss(NAMES, name)
    for step in range(60):
        falling = {key: loss * math.exp(-0.02 * k * step) for k, (key, loss) in enumerate(losses_at(step).items())}
        part = {key: loss for key, loss in falling.items() if step % 2 or key != "qa"}
        module(part)
        seen(module, {key: 0.9 * loss for key, loss in part.items()})
        module.step(gramian_at(step))
    # temperature counts a dict's losses as one each, so the task present half the time has another size
    assert name == "static" or module.weights.std() > 0.01


@pytest.mark.parametrize("name", EVERY)
def test_weights_keep_mean_one_and_the_bounds(name):
    """Tutorial flaws B5 and 10: sums of 1 and of K, so the learning rate changed with the strategy."""
    module = MultiTaskLoss(NAMES, name, rules=Rules(bounds=(0.5, 2.0)))
    for step in range(40):
        far = {key: loss * 10.0 ** (2 * k) for k, (key, loss) in enumerate(losses_at(step).items())}
        module(far)
        seen(module, {key: loss * (1 - 0.1 * k) for k, (key, loss) in enumerate(far.items())})
        module.step(torch.diag(10.0 ** torch.arange(4).double()))
        assert_close(module.weights.mean(), torch.ones((), dtype=torch.float64))
        if module.strategy.adaptive:
            # interpolating between kinks rounds
            assert module.weights.min() >= 0.5 - 1e-12 and module.weights.max() <= 2 + 1e-12


def test_bounds_keep_the_order_and_leave_weights_within_them_alone():
    from sftloss.tasks.rules import bounded

    seen = torch.tensor([True, True, True, False])
    weights = torch.tensor([0.001, 0.4, 2.599, 1.0], dtype=torch.float64)
    got = bounded(weights, seen, (0.1, 2.0))
    assert_close(got[:3].mean(), torch.ones((), dtype=torch.float64))
    assert_close(got, torch.tensor([0.1, 0.9, 2.0, 1.0]).double())
    assert torch.equal(bounded(got, seen, (0.05, 3.0)), got)


def test_warm_up_keeps_weights_at_one_while_states_learn():
    module = MultiTaskLoss(NAMES, "gls", rules=Rules(warmup_steps=3))
    for steps in (1, 2, 3):
        assert trained(module, 1).weights.tolist() == [1.0] * 4 or steps == 3
    assert torch.equal(module.weights, trained(MultiTaskLoss(NAMES, "gls"), 1).weights)


def test_a_loss_that_is_not_finite_stops_the_step_and_names_the_task():
    module = trained(MultiTaskLoss(NAMES), 3)
    before = copy.deepcopy(module)
    module({**losses_at(4), "qa": torch.tensor(math.nan)})
    with pytest.raises(FloatingPointError, match=r"loss of qa is not finite"):
        module.step()
    assert_same(module, before)


def test_a_task_whose_loss_is_not_finite_can_be_skipped():
    module = trained(MultiTaskLoss(NAMES, rules=Rules(on_nonfinite="skip_task")), 3)
    known = module.state["loss"].clone()
    losses, ids, weights = tokens(5)
    leaf = losses.clone().index_fill(0, (ids == 1).nonzero()[:1, 0], math.inf).requires_grad_()
    total, _ = module(leaf, ids, weights + 1)
    total.backward()
    assert torch.isfinite(total) and (leaf.grad[ids == 1] == 0).all() and (leaf.grad[ids == 0] != 0).all()
    total, _ = module({"qa": torch.tensor(math.nan, requires_grad=True), "classes": torch.ones(())})
    assert torch.isfinite(total)
    module.step()
    assert module.state["loss"][1] == known[1] and torch.isfinite(module.weights).all()


@pytest.mark.parametrize("name", EVERY)
def test_a_resumed_run_ends_bit_for_bit_where_the_uninterrupted_one_ends(name, tmp_path):
    """Tutorial flaws B32 and 14: counters, histories and optimiser states were lost. Saved in mid-accumulation."""
    straight, first = (trained(MultiTaskLoss(NAMES, name), 15) for _ in range(2))
    for module in (straight, first):
        module(losses_at(99))
        seen(module, losses_at(98))
    torch.save(first.state_dict(), tmp_path / "tasks.pt")
    resumed = MultiTaskLoss(NAMES, name)
    resumed.load_state_dict(torch.load(tmp_path / "tasks.pt", weights_only=True))
    assert resumed.passes == 1
    assert_same(trained(resumed, 40, start=15), trained(straight, 40, start=15))


def assert_same(one: nn.Module, two: nn.Module) -> None:
    """Bit for bit; a ring that is not full holds NaN, which equals nothing."""
    for (key, value), other in zip(one.named_buffers(), two.buffers(), strict=True):
        assert torch.equal(value.nan_to_num(-1), other.nan_to_num(-1)), key


def test_a_token_that_does_not_count_may_hold_anything():
    """Weight 0 or no task: its NaN enters neither the loss nor the sums."""
    module = MultiTaskLoss(NAMES)
    losses, ids, weights = torch.rand(6), torch.tensor([0, 0, 1, 1, 2, -1]), torch.ones(6)
    losses[[1, 5]], weights[1] = torch.nan, 0
    leaf = losses.requires_grad_()
    total, _ = module(leaf, ids, weights)
    total.backward()
    assert torch.isfinite(total) and leaf.grad[[1, 5]].tolist() == [0, 0]
    assert_close(module.pending_sums[0], losses[0].detach().double())
    module.step()


def test_a_checkpoint_is_read_by_name_and_not_by_order():
    saved = trained(MultiTaskLoss(NAMES, "gls"), 5).state_dict()
    turned = MultiTaskLoss(NAMES[::-1], "gls")
    turned.load_state_dict(saved)
    assert torch.equal(turned.weights.flip(0), saved["weights"])
    assert torch.equal(turned.state["loss"].flip(0), saved["state_loss"])


def test_a_checkpoint_of_other_tasks_is_refused_and_can_be_mapped():
    saved = trained(MultiTaskLoss(NAMES, "gls"), 5).state_dict()
    other = MultiTaskLoss(["new", "qa"], "gls")
    with pytest.raises(RuntimeError, match='"task new"'):
        other.load_state_dict(saved)
    other.load_state_dict(saved, strict=False)
    assert other.state["loss"].tolist() == [0, saved["state_loss"][0].item()]
    assert other.weights[0] == 1 and other.state["seen"].tolist() == [0, 5]


def test_a_checkpoint_of_another_strategy_is_refused():
    with pytest.raises(RuntimeError, match="strategy is gls, this one's dwa"):
        MultiTaskLoss(NAMES, dwa()).load_state_dict(MultiTaskLoss(NAMES, "gls").state_dict())


def test_memory_does_not_grow():
    """Tutorial flaws B32 and 13."""
    module = MultiTaskLoss(NAMES, rules=Rules(window=8))
    shapes = {key: value.shape for key, value in module.named_buffers()}
    trained(module, 50)
    assert {key: value.shape for key, value in module.named_buffers()} == shapes
    last = torch.stack([torch.stack(list(losses_at(step).values())) for step in range(42, 50)])
    told = module.get_task_statistics()["summaries"]
    assert told["current_loss"] == last[-1, 1] and told["average_loss"] == pytest.approx(last[:, 1].mean().item())
    assert told["loss_std"] == pytest.approx(last[:, 1].std().item()) and told["num_updates"] == 50


@pytest.mark.parametrize("name", EVERY)
def test_forward_never_waits_for_a_device(name):
    """Tutorial flaws B32 and 12. On the meta device reading any value raises."""
    module = MultiTaskLoss(NAMES, name, rules=Rules(on_nonfinite="skip_task")).to("meta")
    module(torch.rand(6, device="meta"), torch.zeros(6, dtype=torch.long, device="meta"))
    module({"qa": torch.ones((), device="meta")})
    module.observe(torch.rand(6, device="meta"), torch.zeros(6, dtype=torch.long, device="meta"))
    seen(module, torch.rand(6, device="meta"), torch.zeros(6, dtype=torch.long, device="meta"))
    if STRATEGIES[name]().method is None:  # solved on the host, once a step
        module.step(torch.eye(4, device="meta"))
    with pytest.raises((RuntimeError, NotImplementedError)):
        module.weights.tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", LOSS_ONLY)
def test_forward_never_waits_for_a_gpu(name):
    """Torch itself says so where there is one."""
    module = MultiTaskLoss(NAMES, name, rules=Rules(on_nonfinite="skip_task")).cuda()
    losses, ids = torch.rand(6, device="cuda", requires_grad=True), torch.zeros(6, dtype=torch.long, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        module(losses, ids)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_model_in_half_precision_leaves_the_sums_exact():
    """In bfloat16 a count stops growing at 256."""
    model = nn.ModuleDict({"tasks": MultiTaskLoss(NAMES)}).to(torch.bfloat16)
    assert model["tasks"].weights.dtype == torch.float64 and model["tasks"].observations.dtype == torch.int64


def test_evaluation_observes_nothing():
    module = MultiTaskLoss(NAMES).eval()
    module(losses_at(0))
    module(*tokens(0))
    assert module.pending_counts.sum() == 0 and module.passes == 0


def test_update_freq_steps_by_itself_for_loops_that_never_call_step():
    """The tutorial's loop: one pass an optimizer step."""
    alone, called = MultiTaskLoss(NAMES, update_freq=2), MultiTaskLoss(NAMES)
    for step in range(5):
        if step and step % 2 == 0:
            called.step()
        assert torch.equal(alone(losses_at(step))[0], called(losses_at(step))[0])
    assert (alone.weights != 1).any() and alone.steps == 2


def test_a_forgotten_step_is_noticed_once():
    module = MultiTaskLoss(NAMES)
    with pytest.warns(UserWarning, match="256 forward passes without step"):
        for _ in range(600):
            module({"qa": torch.ones(())})


@pytest.mark.parametrize("name", ["uncertainty", "difficulty_adaptive", "performance_based", "gradient_balance"])
def test_the_tutorials_four_names_work_in_its_call_form(name):
    module = MultiTaskLoss(task_names=NAMES, weighting_strategy=name)
    total, info = module(task_losses := losses_at(0))
    assert set(info) == {"individual_losses", "task_weights", "weighted_losses", "total_loss"}
    assert_close(total, sum(task_losses.values()))
    assert set(module.get_task_statistics()) == set(NAMES)


def test_an_extra_pass_is_asked_for_and_only_where_there_is_use_for_it():
    module = MultiTaskLoss(NAMES, "famo")
    module(losses_at(0))
    with pytest.raises(ValueError, match="famo: needs the losses of the step's own tokens, again"):
        module.step()
    with pytest.raises(ValueError, match="gls needs no extra forward pass"):
        MultiTaskLoss(NAMES, "gls").observe_extra(losses_at(0))
    with pytest.raises(ValueError, match="observe_extra: token losses need task_ids"):
        module.observe_extra(torch.ones(3))


def test_gradient_balance_without_gradients_is_an_error():
    """Tutorial flaw 4: silently no weighting."""
    module = MultiTaskLoss(NAMES, "gradient_balance")
    module(losses_at(0))
    with pytest.raises(ValueError, match="gradient_balance: needs the Gramian"):
        module.step()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiTaskLoss([]), "must be a list of names"),
        (lambda: MultiTaskLoss("qa"), "must be a list of names"),
        (lambda: MultiTaskLoss(["qa", "qa"]), "named twice"),
        (lambda: MultiTaskLoss(NAMES, "uncertanty"), "did you mean 'uncertainty'"),
        (lambda: MultiTaskLoss(NAMES, "gls", temperature=2.0), "gls has no temperature"),
        (lambda: MultiTaskLoss(NAMES, performance_based(), temperature=2.0), "give it to the strategy itself"),
        (lambda: MultiTaskLoss(NAMES, {"qa": 1.0}), "but the tasks are"),
        (lambda: MultiTaskLoss(NAMES, update_freq=0), "update_freq must be"),
        (lambda: Rules(base="mean"), "base must be"),
        (lambda: Rules(bounds=(2.0, 3.0)), "bounds must be"),
        (lambda: Rules(on_nonfinite="ignore"), "on_nonfinite must be"),
        (lambda: Rules(window=0), "window must be"),
        (lambda: MultiTaskLoss(NAMES)({"q": torch.ones(())}), "unknown task 'q'"),
        (lambda: MultiTaskLoss(NAMES)({"qa": torch.ones(2)}), "must be a scalar"),
        (lambda: MultiTaskLoss(NAMES)(torch.ones(2)), "need task_ids"),
        (lambda: MultiTaskLoss(NAMES)(torch.ones(2), torch.zeros(3, dtype=torch.long)), "must be equal"),
        (lambda: MultiTaskLoss(NAMES)(torch.ones(2), torch.tensor([0, 4])), "out of range"),
        (lambda: MultiTaskLoss(NAMES)({}, torch.zeros(3, dtype=torch.long)), "not with a dict"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message):
    """Tutorial flaw 17: unknown names were dropped, so the loss was 0."""
    with pytest.raises(ValueError, match=message):
        make()


def test_weights_by_name_are_fixed_and_scaled_to_mean_one():
    module = trained(MultiTaskLoss(NAMES, {"classes": 3.0, "qa": 1.0, "summaries": 0.0, "translation": 0.0}), 2)
    assert_close(module.weights, torch.tensor([1.0, 0.0, 0.0, 3.0]).double())
