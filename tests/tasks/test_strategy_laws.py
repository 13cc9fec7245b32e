"""Laws of every strategy: who is absent changes nothing else, no name or order matters, no NaN stays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sftloss.registry import record_of
from sftloss.tasks.strategies import (
    STRATEGIES,
    Observation,
    State,
    Strategy,
    difficulty_adaptive,
    dwa,
    gls,
    imtl_l,
    learning_progress,
    performance_based,
    static,
    stch,
    uncertainty,
    uw_so,
)

EVERY = {
    f"{name}({setting})" if setting else name: partial(make, **setting)
    for name, make in STRATEGIES.items()
    for setting in record_of(make).settings
}
every = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
TASKS, STEPS = 4, 9


def observations(seed: int = 0, tasks: int = TASKS, steps: int = STEPS) -> list[Observation]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for step in range(steps):
        losses = torch.rand(tasks, generator=generator, dtype=torch.float64) * 2 / (1 + 0.1 * step) + 0.1
        rows = torch.randn(tasks, 6, generator=generator, dtype=torch.float64)
        counts = torch.randint(1, 50, (tasks,), generator=generator).double()
        extra = losses * (0.5 + 0.5 * torch.rand(tasks, generator=generator, dtype=torch.float64))
        found.append(Observation(losses, counts, rows @ rows.T, extra))
    return found


def without(observation: Observation, task: int, value: float = 0.0) -> Observation:
    """The step in which a task is absent; its loss is anything."""
    losses, counts = observation.losses.clone(), observation.counts.clone()
    gramian, extra = observation.gramian.clone(), observation.extra.clone()
    losses[task], counts[task], gramian[task], gramian[:, task], extra[task] = value, 0, 0, 0, torch.nan
    return Observation(losses, counts, gramian, extra)


def rows_of(observation: Observation, rows: Tensor) -> Observation:
    gramian, extra = observation.gramian[rows][:, rows], observation.extra[rows]
    return Observation(observation.losses[rows], observation.counts[rows], gramian, extra)


def state_rows(state: State, rows: Tensor) -> State:
    return {key: value if value.dim() == 0 else value[rows] for key, value in state.items()}


def run(chosen: Strategy, seen: Iterable[Observation], tasks: int = TASKS) -> State:
    state = chosen.init(tasks)
    for observation in seen:
        state = chosen.update(state, observation)
    return state


def assert_same(actual: State, expected: State) -> None:
    assert actual.keys() == expected.keys()
    for key in actual:
        assert torch.equal(actual[key], expected[key]), key


@every
def test_an_absent_task_keeps_its_state_and_the_others_do_as_without_it(make):
    """Tutorial flaws B27, B29, B30 and B33: a missing task counted as a loss of 0."""
    chosen, before = make(), run(make(), observations())
    last = observations(seed=1)[0]
    others = torch.tensor([0, 2, 3])
    for anything in (0.0, 7.0, float("nan")):
        after = chosen.update(before, without(last, 1, anything))
        assert_same(
            state_rows(after, torch.tensor([1])),
            state_rows(before, torch.tensor([1])) | {key: value for key, value in after.items() if value.dim() == 0},
        )
        alone = chosen.update(state_rows(before, others), rows_of(last, others))
        for key, value in state_rows(after, others).items():
            # a sum over tasks may be taken in another order without the zero of the absent one
            assert_close(value, alone[key], rtol=1e-14, atol=0)


@every
def test_a_task_never_seen_equals_the_problem_without_it(make):
    chosen, others = make(), torch.tensor([0, 2, 3])
    weights = chosen.weights(run(chosen, [without(seen, 1) for seen in observations()]))
    three = run(chosen, [rows_of(seen, others) for seen in observations()], tasks=3)
    if chosen.name == "rlw":  # draws belong to a task's place; without the second, the third is still the third
        three["key"] = others
    # float64; sums over three and over four tasks differ in their order
    assert_close(weights[others], chosen.weights(three), rtol=1e-13, atol=0)
    assert weights[1] == 1


@every
def test_weights_are_finite_positive_detached_and_of_mean_one(make):
    for count in range(STEPS):
        weights = make().weights(run(make(), observations()[:count]))
        assert weights.dtype == torch.float64 and not weights.requires_grad
        assert (weights > 0).all() and torch.isfinite(weights).all()
        assert_close(weights.mean(), torch.ones((), dtype=torch.float64))


@every
def test_one_task_has_weight_exactly_one(make):
    for observation in observations(tasks=1):
        assert make().weights(run(make(), [observation] * 5, tasks=1)).tolist() == [1.0]


@every
def test_the_order_of_the_tasks_is_irrelevant(make):
    if make().name == "pcgrad":
        pytest.skip("the order of projection is drawn by place, so PCGrad is equivariant in distribution only")
    chosen, order = make(), torch.tensor([2, 0, 3, 1])
    straight = run(chosen, observations())
    mixed = chosen.init(TASKS)
    if "key" in mixed:
        mixed["key"] = mixed["key"][order]
    for observation in observations():
        mixed = chosen.update(mixed, rows_of(observation, order))
    # the same numbers added in another order
    assert_close(chosen.weights(mixed), chosen.weights(straight)[order], rtol=1e-12, atol=0)


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_leaves_no_trace(make, bad):
    """It counts as absent, so no state is poisoned."""
    before, last = run(make(), observations()), observations(seed=1)[0]
    losses = last.losses.clone()
    losses[2] = bad
    after = make().update(before, replace(last, losses=losses))
    there = losses == losses.clamp(0, 9)
    assert_same(after, make().update(before, replace(last, losses=losses, counts=last.counts * there)))
    extra = last.extra.clone()
    extra[2] = bad
    after = make().update(after, replace(last, extra=extra))
    assert torch.isfinite(make().weights(after)).all()


@every
def test_a_step_without_any_task_changes_nothing(make):
    before = run(make(), observations())
    zero = torch.zeros(TASKS)
    nothing = Observation(zero, zero, torch.zeros(TASKS, TASKS), torch.full((TASKS,), torch.nan))
    assert_same(make().update(before, nothing), before)


@every
def test_update_leaves_the_old_state_as_it_was(make):
    state = run(make(), observations()[:4])
    copy = {key: value.clone() for key, value in state.items()}
    make().update(state, observations()[5])
    assert_same(state, copy)


@every
def test_shapes_of_the_state_never_change(make):
    """So that a checkpoint of any step fits, and memory does not grow (tutorial flaw 13)."""
    shapes = {key: (value.shape, value.dtype) for key, value in make().init(TASKS).items()}
    assert {key: (value.shape, value.dtype) for key, value in run(make(), observations() * 20).items()} == shapes


@every
def test_small_and_negative_losses_give_finite_weights(make):
    """Tutorial flaw B33; and an objective such as -p is negative everywhere."""
    for level in (1e-30, -0.5, 1e4):
        low = [replace(seen, losses=seen.losses * level, extra=seen.extra * level) for seen in observations()]
        assert torch.isfinite(make().weights(run(make(), low))).all()


def of_unit(unit: str) -> dict[str, partial[Strategy]]:
    """Strategies whose record says so, in the first setting of each."""
    records = {name: record_of(make) for name, make in STRATEGIES.items()}
    return {name: partial(STRATEGIES[name], **r.settings[0]) for name, r in records.items() if r.unit == unit}


SCALE_FREE, INVERSE = of_unit("free"), of_unit("inverse")


def scaled(seen: Observation, factors: Tensor) -> Observation:
    gramian = seen.gramian * torch.outer(factors, factors)
    return Observation(seen.losses * factors, seen.counts, gramian, seen.extra * factors)


@pytest.mark.parametrize("make", SCALE_FREE.values(), ids=SCALE_FREE)
def test_scale_free_strategies_do_not_see_the_unit_of_a_loss(make):
    """Tutorial flaw 9: tasks of equal relative speed got weights by their scale."""
    factors = torch.tensor([10.0, 1.0, 1.0, 0.1], dtype=torch.float64)
    plain = make().weights(run(make(), observations()))
    # logs and quotients of scaled numbers round differently
    again = make().weights(run(make(), [scaled(seen, factors) for seen in observations()]))
    assert_close(again, plain, rtol=1e-10, atol=0)


@pytest.mark.parametrize("make", INVERSE.values(), ids=INVERSE)
def test_inverse_strategies_give_a_loss_in_other_units_the_same_influence(make):
    factors = torch.tensor([10.0, 1.0, 1.0, 0.1], dtype=torch.float64)
    plain = make().weights(run(make(), observations())) / factors
    again = make().weights(run(make(), [scaled(seen, factors) for seen in observations()]))
    assert_close(again, plain / plain.mean(), rtol=1e-10, atol=0)


def constant(losses: list[float], steps: int) -> list[Observation]:
    values = torch.tensor(losses, dtype=torch.float64)
    return [Observation(values, torch.ones(len(losses)), extra=values)] * steps


LEVELS = [2.0, 0.5, 0.1]


@pytest.mark.parametrize(
    "make",
    [uncertainty, partial(uncertainty, kind="regression"), gls],
    ids=["uncertainty", "uncertainty of regression", "gls"],
)
def test_uncertainty_is_one_over_the_loss(make):
    """w = 1/(2L) in both forms, tutorial flaws B4 and 10; the tutorial's code gives 1/L and its text neither."""
    weights = make().weights(run(make(), constant(LEVELS, 3), tasks=3))
    expected = 1 / (2 * torch.tensor(LEVELS, dtype=torch.float64))
    assert_close(weights, expected / expected.mean())


def test_liebels_weight_is_the_minimum_of_its_objective():
    """At L = 0.1 and 0.01: 2.0 and 6.8 (uncertainty has 5 and 50)."""
    chosen = uncertainty(kind="liebel")
    weights = chosen.weights(run(chosen, constant([0.1, 0.01], 1), tasks=2))
    found = []
    for loss in (0.1, 0.01):
        grid = torch.linspace(0.01, 2, 200_001, dtype=torch.float64)
        square = grid[(loss / (2 * grid) + torch.log1p(grid)).argmin()]
        found.append(1 / (2 * square))
    assert found[0].item() == pytest.approx(2.0, rel=1e-4) and found[1].item() == pytest.approx(6.826, rel=1e-3)
    # the grid has steps of 1e-5, near 0.07 a relative 1.5e-4
    assert (weights[1] / weights[0]).item() == pytest.approx((found[1] / found[0]).item(), rel=3e-4)


@pytest.mark.parametrize("kind", ["classification", "regression", "liebel"])
def test_learned_uncertainty_converges_to_its_closed_form(kind):
    """Tutorial flaws B31 and 11: nobody optimised the log variances."""
    learned, closed = uncertainty(kind=kind, learn="sgd", lr=0.1), uncertainty(kind=kind)
    near = learned.weights(run(learned, constant(LEVELS, 1500), tasks=3))
    # a contraction of 1 - lr/2 (a quarter, for regression) a step: far below 1e-6 after 1500
    assert_close(near, closed.weights(run(closed, constant(LEVELS, 1), tasks=3)), rtol=1e-6, atol=0)


def test_imtl_l_converges_to_one_over_the_loss():
    chosen = imtl_l(lr=0.1)
    expected = 1 / torch.tensor(LEVELS, dtype=torch.float64)
    assert_close(chosen.weights(run(chosen, constant(LEVELS, 400), tasks=3)), expected / expected.mean())


def test_uw_so_is_the_softmax_of_inverse_losses():
    chosen = uw_so(temperature=2.0)
    expected = 3 * torch.softmax(1 / (2 * torch.tensor(LEVELS, dtype=torch.float64)), 0)
    assert_close(chosen.weights(run(chosen, constant(LEVELS, 1), tasks=3)), expected)


def test_difficulty_is_the_softmax_of_losses():
    chosen = difficulty_adaptive(relative=False, temperature=0.5)
    expected = 3 * torch.softmax(torch.tensor(LEVELS, dtype=torch.float64) / 0.5, 0)
    assert_close(chosen.weights(run(chosen, constant(LEVELS, 4), tasks=3)), expected)


def test_stch_at_mu_one_is_the_inverse_of_the_first_loss():
    chosen = stch(mu=1.0, reference_steps=1)
    first, later = constant(LEVELS, 1), constant([1.9, 0.1, 0.05], 4)
    expected = 1 / torch.tensor(LEVELS, dtype=torch.float64)
    assert_close(chosen.weights(run(chosen, first + later, tasks=3)), expected / expected.mean())


def test_stch_weights_are_the_gradient_of_the_smooth_maximum():
    """Against autograd of mu log sum exp(log(L/L0)/mu)."""
    chosen, mu = stch(mu=0.3, reference_steps=1), 0.3
    now = torch.tensor([1.9, 0.1, 0.05], dtype=torch.float64, requires_grad=True)
    smooth = mu * torch.logsumexp((now / torch.tensor(LEVELS, dtype=torch.float64)).log() / mu, 0)
    (slope,) = torch.autograd.grad(smooth, now)
    weights = chosen.weights(run(chosen, constant(LEVELS, 1) + constant(now.tolist(), 1), tasks=3))
    assert_close(weights, slope / slope.mean())


def test_gls_weights_are_the_gradient_of_the_geometric_mean():
    now = torch.tensor(LEVELS, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(now.log().mean().exp(), now)
    assert_close(gls().weights(run(gls(), constant(LEVELS, 1), tasks=3)), slope / slope.mean())


def test_group_dro_is_exponentiated_gradient():
    chosen = STRATEGIES["group_dro"](eta=0.1)
    expected = 3 * torch.softmax(5 * 0.1 * torch.tensor(LEVELS, dtype=torch.float64), 0)
    assert_close(chosen.weights(run(chosen, constant(LEVELS, 5), tasks=3)), expected)


def test_group_dro_keeps_the_weight_of_an_absent_task():
    chosen = STRATEGIES["group_dro"](eta=0.5)
    before = run(chosen, constant(LEVELS, 2), tasks=3)
    absent = Observation(torch.tensor(LEVELS).double(), torch.tensor([1.0, 0.0, 1.0]))
    after = chosen.update(before, absent)
    # the mass of the present is preserved up to rounding
    assert_close(chosen.weights(after)[1], chosen.weights(before)[1], rtol=1e-14, atol=0)
    assert chosen.weights(after)[0] > chosen.weights(before)[0]


def test_dwa_is_uniform_until_two_windows_are_complete_and_then_the_ratio_of_their_means():
    chosen = dwa(temperature=2.0, window=2)
    path = constant([1.0, 1.0], 2) + constant([0.9, 0.5], 2)
    assert chosen.weights(run(chosen, path[:3], tasks=2)).tolist() == [1.0, 1.0]
    expected = 2 * torch.softmax(torch.tensor([0.9, 0.5], dtype=torch.float64) / 2, 0)
    assert_close(chosen.weights(run(chosen, path, tasks=2)), expected)


def test_temperature_one_weights_by_size_and_a_large_one_equally():
    seen = [Observation(torch.ones(2), torch.tensor([30.0, 10.0]))]
    assert_close(
        STRATEGIES["temperature"](temperature=1.0).weights(run(STRATEGIES["temperature"](), seen, 2)),
        torch.tensor([1.5, 0.5], dtype=torch.float64),
    )
    large = STRATEGIES["temperature"](temperature=1e9)
    # 3^(1e-9) is 1 + 1.1e-9
    assert_close(large.weights(run(large, seen, 2)), torch.ones(2, dtype=torch.float64), rtol=2e-9, atol=0)


def test_focal_dtp_is_its_formula():
    chosen = STRATEGIES["focal_dtp"](gamma=2.0)
    kpi = torch.exp(-torch.tensor(LEVELS, dtype=torch.float64))
    expected = -((1 - kpi) ** 2) * kpi.log()
    assert_close(chosen.weights(run(chosen, constant(LEVELS, 3), tasks=3)), expected / expected.mean())


def test_rlw_draws_are_standard_normal_and_independent():
    from sftloss.tasks.strategies.rlw import _mixed, _normal

    steps = torch.arange(40_000)
    one, two = (_normal(_mixed(_mixed(torch.tensor([key])) + steps)) for key in (0, 1))
    # four standard errors of 40 000 draws
    assert abs(one.mean()) < 0.02 and abs(one.std() - 1) < 0.02
    assert abs((one * two).mean()) < 0.02 and abs((one[1:] * one[:-1]).mean()) < 0.02


def test_rlw_neither_reads_nor_moves_a_random_state():
    """Ranks have different ones; the same Gramian or step must give the same weights."""
    before = torch.get_rng_state()
    weights = [STRATEGIES["rlw"]().weights(run(STRATEGIES["rlw"](), observations()[:3])) for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(*weights)
    other = STRATEGIES["rlw"](seed=1)
    assert not torch.equal(other.weights(run(other, observations()[:3])), weights[0])


def falling(rates: list[float], steps: int) -> list[Observation]:
    rate = torch.tensor(rates, dtype=torch.float64)
    levels = [3 * torch.exp(rate * t) for t in range(steps + 1)]
    # what an extra pass shows: of the same tokens after the step
    return [Observation(now, torch.ones(len(rates)), extra=after) for now, after in pairwise(levels)]


@pytest.mark.parametrize("name", ["performance_based", "dwa", "difficulty_adaptive", "grad_norm", "coba"])
def test_a_slower_task_never_has_less_weight(name):
    rates = [-0.1, -0.05, -0.02, 0.05] if name != "coba" else [-0.1, -0.05, -0.02, -0.01]
    seen = [replace(s, gramian=torch.eye(4, dtype=torch.float64)) for s in falling(rates, 60)]
    weights = STRATEGIES[name]().weights(run(STRATEGIES[name](), seen))
    assert (weights.diff() >= -1e-12).all() and weights[0] < weights[-1]


def test_learning_progress_points_the_other_way():
    weights = learning_progress().weights(run(learning_progress(), falling([-0.03, -0.02, -0.01, 0.0], 60)))
    assert (weights.diff() < 0).all()


def test_a_diverging_task_does_not_take_all():
    """Tutorial flaw B30 and 8: slopes -.1, -.05, -.02, +.05 gave the diverging task 3.9997 of 4."""
    chosen = performance_based()
    weights = chosen.weights(run(chosen, falling([-0.1, -0.05, -0.02, 0.05], 60)))
    assert weights.max() / weights.min() <= 2.7183
    stalled = chosen.weights(run(chosen, falling([-0.1, -0.05, -0.02, 0.0], 60)))
    # rising counts as standing still
    assert_close(weights, stalled)


def test_performance_is_the_relative_slope_across_the_window():
    """An exact exponential: the smoothed log loss is again a line, after the mean has forgotten its start."""
    chosen, rates = performance_based(window=5, limit=9.0, decay=0.5), [-0.1, -0.05]
    weights = chosen.weights(run(chosen, falling(rates, 63), tasks=2))
    expected = 2 * torch.softmax(4 * torch.tensor(rates, dtype=torch.float64), 0)
    assert_close(weights, expected, rtol=1e-6, atol=0)


def test_dwa_bounds_a_diverging_task():
    chosen = dwa(window=1)
    weights = chosen.weights(run(chosen, constant([1.0, 1.0], 1) + constant([1000.0, 1.0], 1), tasks=2))
    # ratios 2 and 1 at temperature 2
    assert_close(weights, 2 * torch.softmax(torch.tensor([1.0, 0.5], dtype=torch.float64), 0))


def test_performance_before_a_full_window_is_neutral():
    chosen = performance_based(window=10)
    late = [without(o, 1) for o in observations(steps=20)] + observations(steps=3)
    state = run(chosen, late)
    weights = chosen.weights(state)
    others = weights[torch.tensor([0, 2, 3])]
    assert_close(weights[1].log(), others.log().mean())


def test_gradient_balance_makes_norms_equal():
    norms = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)
    seen = [Observation(torch.ones(3), torch.ones(3), torch.diag(norms**2))] * 2
    weights = STRATEGIES["gradient_balance"]().weights(run(STRATEGIES["gradient_balance"](), seen, tasks=3))
    assert_close(weights * norms, (weights * norms).mean().expand(3))


def test_gradient_balance_gives_a_task_without_gradient_no_weight_for_it():
    """Tutorial flaw B29: its zero norm took all the weight, 3.0 of 3."""
    gramian = torch.diag(torch.tensor([4.0, 0.0, 1.0], dtype=torch.float64))
    seen = [Observation(torch.ones(3), torch.ones(3), gramian)]
    weights = STRATEGIES["gradient_balance"]().weights(run(STRATEGIES["gradient_balance"](), seen, tasks=3))
    assert_close(weights, torch.tensor([2 / 3, 1.0, 4 / 3], dtype=torch.float64))


@pytest.mark.parametrize("alpha, gap", [(0.0, 0.01), (1.0, 0.01), (1.5, 0.1)])
def test_the_steps_of_grad_norm_as_published_end_at_or_near_the_closed_form(alpha, gap):
    """w_k follows the gradient of |w_k n_k - G r_k^alpha| with G held fixed, then all are rescaled to their sum."""
    norms, losses = torch.tensor([2.0, 1.0, 0.5]).double(), torch.tensor([0.8, 1.0, 1.4]).double()
    rates, weights, late = losses / losses.mean(), torch.ones(3).double(), []
    for step in range(3000):
        pulls = weights * norms
        weights = weights - 2e-3 * norms * torch.sign(pulls - pulls.mean() * rates**alpha)
        weights = 3 * weights / weights.sum()
        late += [weights] if step >= 1500 else []
    chosen = STRATEGIES["grad_norm"](alpha=alpha, decay=0.0, reference_steps=1)
    seen = [Observation(one, torch.ones(3), torch.diag(norms**2)) for one in (torch.ones(3).double(), losses)]
    closed = chosen.weights(run(chosen, seen, tasks=3))
    assert_close(torch.stack(late).mean(0) / 3, closed / closed.sum(), rtol=gap, atol=0)


def test_grad_norm_pulls_are_in_proportion_to_how_far_tasks_lag():
    norms, alpha = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64), 1.5
    first, later = [2.0, 2.0, 2.0], [1.0, 1.5, 2.0]
    chosen = STRATEGIES["grad_norm"](alpha=alpha, decay=0.0, reference_steps=1)
    seen = [Observation(torch.tensor(x).double(), torch.ones(3), torch.diag(norms**2)) for x in (first, later)]
    weights = chosen.weights(run(chosen, seen, tasks=3))
    pulls = weights * norms
    lag = (torch.tensor(later) / torch.tensor(first)).double() ** alpha
    assert_close(pulls / pulls.sum(), lag / lag.sum())


@pytest.mark.parametrize("name", ["gradient_balance", "grad_norm"])
def test_a_strategy_that_needs_gradients_says_so(name):
    """Tutorial flaw 4: without a model it did nothing, silently."""
    with pytest.raises(ValueError, match=f"{name}: needs the Gramian"):
        STRATEGIES[name]().update(STRATEGIES[name]().init(2), constant([1.0, 1.0], 1)[0])


def test_static_factors_are_scaled_to_mean_one_and_may_be_zero():
    chosen = static(factors=[2.0, 1.0, 0.0])
    assert_close(chosen.weights(run(chosen, constant(LEVELS, 1), tasks=3)), torch.tensor([2.0, 1.0, 0.0]).double())


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("static", {"factors": [-1.0, 2.0]}),
        ("static", {"factors": [0.0, 0.0]}),
        ("temperature", {"temperature": 0.0}),
        ("uncertainty", {"kind": "gaussian"}),
        ("uncertainty", {"learn": "adam"}),
        ("uncertainty", {"decay": 1.0}),
        ("uw_so", {"temperature": float("nan")}),
        ("imtl_l", {"lr": -1.0}),
        ("dwa", {"window": 0}),
        ("difficulty_adaptive", {"temperature": -1.0}),
        ("performance_based", {"window": 1}),
        ("learning_progress", {"limit": 0.0}),
        ("group_dro", {"eta": 0.0}),
        ("gls", {"decay": -0.1}),
        ("stch", {"mu": 0.0}),
        ("focal_dtp", {"gamma": -1.0}),
        ("famo", {"lr": 0.0}),
        ("famo", {"gamma": -1.0}),
        ("coba", {"window": 1}),
        ("coba", {"tau": -1.0}),
        ("doremi", {"eta": 0.0}),
        ("doremi", {"smoothing": 1.0}),
        ("gradient_balance", {"decay": 2.0}),
        ("grad_norm", {"alpha": -1.0}),
    ],
)
def test_a_hyper_parameter_out_of_range_is_refused_by_name(name, keywords):
    with pytest.raises(ValueError, match=f"^{name}: "):
        STRATEGIES[name](**keywords)


def test_every_strategy_says_what_it_is():
    for name, make in STRATEGIES.items():
        text = make.__doc__ or ""
        assert "Source:" in text, name
        assert "lag" in text.lower() or make().method, name  # a method's weights are documented as those of its step
        assert make().name == name
