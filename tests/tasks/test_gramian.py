"""Gramian methods against what defines each optimum, closed forms of two tasks, and TorchJD's own solvers."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sftloss.tasks import strategies
from sftloss.tasks.gramian import on_present
from sftloss.tasks.strategies import STRATEGIES, Observation, of_gramian

aligned_mtl, cagrad, fairgrad, imtl_g, mgda, nash_mtl, pcgrad, upgrad = (
    getattr(strategies, name).weights
    for name in ("aligned_mtl", "cagrad", "fairgrad", "imtl_g", "mgda", "nash_mtl", "pcgrad", "upgrad")
)
METHODS = {name: method for name, make in STRATEGIES.items() if (method := make().method)}
every = pytest.mark.parametrize("weighting", METHODS.values(), ids=METHODS)
NON_CONFLICTING = {name: METHODS[name] for name in ("mgda", "upgrad", "nash_mtl", "fairgrad", "imtl_g")}


def gradients(tasks: int = 4, size: int = 9, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Rows of which some conflict, in unequal lengths."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, size, generator=generator, dtype=torch.float64) - 0.2
    return scale * rows * torch.logspace(-0.5, 0.5, tasks, dtype=torch.float64)[:, None]


def gramian(**keywords) -> Tensor:
    rows = gradients(**keywords)
    return rows @ rows.T


SEEDS = pytest.mark.parametrize("seed", range(12))


@SEEDS
@pytest.mark.parametrize("tasks", [2, 4, 7])
def test_mgda_meets_its_optimality_conditions(seed, tasks):
    g = gramian(seed=seed, tasks=tasks)
    w = mgda(g)
    assert (w >= 0).all() and abs(w.sum() - 1) < 1e-12
    # at the optimum every task's product with the direction is at least the squared length, equal where w > 0
    slack = g @ w - w @ g @ w
    assert slack.min() > -1e-9 * g.max() and (slack * w).abs().max() < 1e-9 * g.max()


def test_mgda_of_two_is_its_closed_form():
    a, b = gradients(tasks=2, seed=3)
    expected = float(((b - a) @ b) / ((a - b) @ (a - b)))
    assert_close(mgda(torch.stack([a, b]) @ torch.stack([a, b]).T)[0], torch.tensor(min(max(expected, 0), 1)).double())


@SEEDS
@pytest.mark.parametrize("tasks", [2, 4, 7])
def test_upgrad_is_the_mean_of_projections_on_the_dual_cone(seed, tasks):
    """Each projection: feasible, a fixed 1 on its own task at least, and complementary."""
    from sftloss.tasks.gramian import complementary

    g = gramian(seed=seed, tasks=tasks)
    for k, v in enumerate(complementary("upgrad", g, g)):
        v[k] += 1
        products = g @ v
        assert products.min() > -1e-9 * g.max()
        beyond = v - torch.nn.functional.one_hot(torch.tensor(k), tasks)
        assert beyond.min() >= 0 and (beyond * products).abs().max() < 1e-8 * g.max()
    assert (g @ upgrad(g)).min() > -1e-9 * g.max()


@SEEDS
def test_cagrad_beats_every_other_direction_in_its_ball(seed):
    """The primal: the worst task's gain, over 4000 directions of the ball around the mean."""
    rows = gradients(seed=seed, tasks=3)
    g, c = rows @ rows.T, 0.5
    mean = rows.mean(0)
    d = cagrad(g, c=c) @ rows
    radius = c * mean.norm()
    assert_close((d - mean).norm(), radius, rtol=1e-9, atol=0)
    generator = torch.Generator().manual_seed(seed)
    other = torch.randn(4000, rows.shape[1], generator=generator, dtype=torch.float64)
    # near d too, where a wrong optimum would be seen first
    other = torch.cat([other / other.norm(dim=1, keepdim=True), (d - mean) / radius + 0.05 * other])
    other = mean + radius * other / other.norm(dim=1, keepdim=True)
    assert (other @ rows.T).min(1).values.max() <= (rows @ d).min() + 1e-9


@SEEDS
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
def test_fairgrad_solves_its_equation(seed, alpha):
    g = gramian(seed=seed)
    w = fairgrad(g, alpha=alpha)
    # a ridge of 1e-10 is part of the equation
    assert (w > 0).all() and ((g @ w) * w ** (1 / alpha) - 1).abs().max() < 1e-6


def test_nash_is_fairgrad_at_one_and_scales_inversely():
    g, factors = gramian(seed=1), torch.tensor([10.0, 1.0, 0.1, 3.0], dtype=torch.float64)
    assert_close(nash_mtl(g), fairgrad(g, alpha=1.0))
    # the same direction in any units of the losses; the ridge is relative to the mean norm
    assert_close(nash_mtl(g * torch.outer(factors, factors)) * factors, nash_mtl(g), rtol=1e-6, atol=0)


@SEEDS
def test_imtl_g_projects_equally_on_every_gradient(seed):
    rows = gradients(seed=seed)
    d = imtl_g(rows @ rows.T) @ rows
    products = rows @ d / rows.norm(dim=1)
    assert_close(products, products.mean().expand(4), rtol=1e-8, atol=0)


@SEEDS
def test_aligned_gradients_are_orthogonal_and_equally_long(seed):
    """The method through its matrix: column k of B G B is lambda_min on the diagonal, so w of one task is column k."""
    rows = gradients(seed=seed)
    g = rows @ rows.T
    values, vectors = torch.linalg.eigh(g)
    b = values.min().sqrt() * vectors @ torch.diag(values.rsqrt()) @ vectors.T
    assert_close(b @ g @ b, values.min() * torch.eye(4, dtype=torch.float64), rtol=1e-8, atol=1e-8 * float(g.max()))
    assert_close(aligned_mtl(g), b.mean(1))


def test_pcgrad_of_two_is_its_closed_form():
    a, b = torch.tensor([1.0, 0.0]).double(), torch.tensor([-1.0, 1.0]).double()
    rows = torch.stack([a, b])
    expected = (a - (a @ b) / (b @ b) * b) + (b - (a @ b) / (a @ a) * a)
    assert_close(pcgrad(rows @ rows.T) @ rows, expected)


def test_pcgrad_neither_reads_nor_moves_a_random_state():
    """Ranks have different ones."""
    before, found = torch.get_rng_state(), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(pcgrad(gramian(tasks=6), seed=5))
    assert torch.equal(*found)
    torch.set_rng_state(before)
    pcgrad(gramian())
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(pcgrad(gramian(tasks=6), seed=6), found[0])


@every
@SEEDS
def test_an_absent_task_equals_the_problem_without_it(weighting, seed):
    """With its row of zeros MGDA and CAGrad return exactly 0 for all."""
    present = torch.tensor([True, False, True, True])
    anything = gramian(seed=seed)
    anything[1], anything[:, 1] = torch.nan, torch.nan
    w = on_present(weighting, anything, present)
    keep = present.nonzero()[:, 0]
    assert w[1] == 0 and torch.equal(w[keep], weighting(gramian(seed=seed)[keep][:, keep]))
    assert w.abs().sum() > 0
    assert on_present(weighting, anything, torch.zeros(4, dtype=torch.bool)).tolist() == [0.0] * 4


@every
def test_the_order_of_the_tasks_is_irrelevant(weighting):
    if weighting is METHODS["pcgrad"]:
        pytest.skip("the order of projection is drawn by place, so PCGrad is equivariant in distribution only")
    g, order = gramian(seed=4), torch.tensor([2, 0, 3, 1])
    assert_close(weighting(g[order][:, order]), weighting(g)[order], rtol=1e-7, atol=1e-9)


@every
@pytest.mark.parametrize("scale", [1e-10, 1e10])
def test_the_scale_of_all_gradients_changes_the_direction_of_none(weighting, scale):
    w, scaled = weighting(gramian(seed=2)), weighting(gramian(seed=2, scale=scale))
    assert_close(scaled / scaled.norm(), w / w.norm(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("weighting", NON_CONFLICTING.values(), ids=NON_CONFLICTING)
@SEEDS
def test_no_task_is_hurt(weighting, seed):
    g = gramian(seed=seed)
    products = g @ weighting(g)
    if weighting is imtl_g:  # equal projections; where they sum to a negative number all are hurt alike
        products = products * products.sum().sign()
    assert products.min() > -1e-9 * g.max()


@every
def test_degenerate_gramians_give_finite_weights(weighting):
    ones = torch.ones(3, 3, dtype=torch.float64)
    opposite = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()
    for g in (torch.zeros(3, 3).double(), ones, opposite, torch.diag(torch.tensor([1.0, 0.0, 1.0])).double()):
        w = weighting(g)
        assert torch.isfinite(w).all() and w.dtype == torch.float64


@every
def test_identical_gradients_are_that_gradient_up_to_a_factor(weighting):
    row = gradients(tasks=1)
    rows = row.expand(3, -1)
    d = weighting(rows @ rows.T) @ rows
    assert_close(d / d.norm(), row[0] / row.norm(), rtol=1e-6, atol=1e-9)


@every
def test_one_task_is_its_gradient_up_to_a_positive_factor(weighting):
    assert weighting(torch.tensor([[2.5]])) > 0


@every
def test_thirty_two_tasks_are_solved(weighting):
    w = weighting(gramian(tasks=32, size=40))
    assert torch.isfinite(w).all()


@every
def test_a_gramian_that_is_none_is_refused_by_name(weighting):
    name = next(key for key, value in METHODS.items() if value is weighting)
    with pytest.raises(ValueError, match=f"^{name}: a Gramian is square"):
        weighting(torch.ones(2, 3))
    with pytest.raises(ValueError, match=f"^{name}: the Gramian holds NaN"):
        weighting(torch.full((2, 2), torch.nan))


@pytest.mark.parametrize("weighting", [upgrad, nash_mtl, fairgrad, mgda, cagrad], ids=lambda w: w.__name__)
def test_two_quadratics_reach_their_pareto_front(weighting):
    """|x - a|^2 and 4 |x - b|^2: the front is the segment from a to b."""
    a, b = torch.tensor([0.0, 1.0]).double(), torch.tensor([2.0, -1.0]).double()
    x = torch.tensor([3.0, 3.0]).double()
    for step in range(500):
        rows = torch.stack([2 * (x - a), 8 * (x - b)])
        d = weighting(rows @ rows.T) @ rows
        x = x - 0.06 / (1 + 0.01 * step) * d / max(1.0, float(d.norm()))
    along = float((x - a) @ (b - a) / ((b - a) @ (b - a)))
    assert -1e-3 <= along <= 1 + 1e-3
    # the steps shrink to 1e-2
    assert float((x - a - along * (b - a)).norm()) < 2e-2


@pytest.mark.parametrize("weighting", [upgrad, nash_mtl, mgda], ids=lambda w: w.__name__)
def test_three_quadratics_reach_their_pareto_front(weighting):
    """s_k |x - a_k|^2: the front is the triangle of the a_k, whatever the scales; the start is off its plane."""
    corners = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]).double()
    scales, x = torch.tensor([[1.0], [4.0], [9.0]]).double(), torch.tensor([-1.0, -2.0, 3.0]).double()
    for step in range(300):
        rows = 2 * scales * (x - corners)
        d = weighting(rows @ rows.T) @ rows
        x = x - 0.06 / (1 + 0.02 * step) * d / max(1.0, float(d.norm()))
    inside = torch.stack([x[0], x[1], 2 - x[0] - x[1]])
    # the steps shrink to 1e-2
    assert abs(float(x[2])) < 2e-2 and float(inside.min()) > -2e-2


@pytest.mark.parametrize("name", ["upgrad", "mgda", "nash_mtl", "fairgrad"])
@pytest.mark.parametrize("ratio", [1e4, 1e8, 1e12])
@SEEDS
def test_norms_of_any_ratio_are_solved_without_conflict(name, ratio, seed):
    """On the Gramian itself UPGrad ended at its limit, from a ratio of 1e8 on, with a direction that hurt tasks."""
    rows = torch.randn(8, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.2
    rows = rows * torch.logspace(0, 1, 8, base=ratio, dtype=torch.float64)[:, None] / ratio**0.5
    d = METHODS[name](rows @ rows.T) @ rows
    # a ridge of 1e-10 of each squared norm, or less
    assert (rows @ d / rows.norm(dim=1) / d.norm()).min() > -1e-9


@SEEDS
@pytest.mark.parametrize("ratio", [1e4, 1e8])
def test_cagrad_and_imtl_g_hold_their_definition_at_any_ratio_of_norms(ratio, seed):
    rows = gradients(seed=seed, tasks=6, size=12) * torch.logspace(0, 1, 6, base=ratio, dtype=torch.float64)[:, None]
    mean = rows.mean(0)
    assert_close((cagrad(rows @ rows.T) @ rows - mean).norm(), 0.4 * mean.norm(), rtol=1e-9, atol=0)
    products = rows @ (imtl_g(rows @ rows.T) @ rows) / rows.norm(dim=1)
    assert_close(products, products.mean().expand(6), rtol=1e-8, atol=0)


@SEEDS
@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-7, 1e-9, 1e-12])
def test_cagrad_near_a_stationary_point_amplifies_no_rounding(size, seed):
    """Gradients that cancel but for a part of this size: the direction stays in its ball, or is the mean gradient."""
    rows = gradients(seed=seed, tasks=3)
    rows[2] = -rows[:2].sum(0) + size * torch.randn(9, generator=torch.Generator().manual_seed(seed)).double()
    mean = rows.mean(0)
    w = cagrad(rows @ rows.T)
    assert w.max() < 1e7 and (w @ rows - mean).norm() <= 0.4 * mean.norm() * (1 + 1e-3) + 1e-15
    if size <= 1e-7:
        assert torch.equal(w, torch.full((3,), 1 / 3, dtype=torch.float64))


@pytest.mark.parametrize("method", [upgrad, mgda, cagrad, nash_mtl])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounded_gramians_of_nearly_equal_gradients_are_solved_without_a_warning(method, dtype):
    rows = torch.randn(20, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows[10:] = rows[:10] + 1e-9 * rows[10:]
    rows *= torch.logspace(0, 4, 20, dtype=torch.float64)[:, None]
    assert method((rows @ rows.T).to(dtype)).isfinite().all()


def test_no_solver_stops_at_its_limit_in_silence(monkeypatch):
    for module in ("sftloss.tasks.gramian", "sftloss.tasks.strategies.cagrad"):
        monkeypatch.setattr(sys.modules[module], "range", lambda limit: [0], raising=False)
    for weighting, name in ((upgrad, "upgrad"), (mgda, "mgda"), (cagrad, "cagrad"), (nash_mtl, "nash_mtl")):
        with pytest.warns(RuntimeWarning, match=f"^{name}: the weights of this step are not exact"):
            weighting(gramian(tasks=20, size=12))


def test_a_method_is_also_a_strategy_and_weighs_the_step_itself():
    present, g = torch.tensor([True, False, True, True]), gramian()
    weights = STRATEGIES["upgrad"]().weights_of_step(g, present)
    assert torch.equal(weights, on_present(upgrad, g, present))
    with pytest.raises(ValueError, match="^gls: its weights follow earlier steps"):
        STRATEGIES["gls"]().weights_of_step(g, present)


ORACLES = {
    "imtl_g": (imtl_g, "IMTLGWeighting", {}, 1e-8),
    "mgda": (mgda, "MGDAWeighting", {"epsilon": 1e-9, "max_iters": 20_000}, 2e-3),  # theirs is Frank-Wolfe
    "aligned_mtl": (aligned_mtl, "AlignedMTLWeighting", {}, 1e-8),
    "upgrad": (upgrad, "UPGradWeighting", {}, 1e-6),  # their ridge set to 1e-10
    "fairgrad": (fairgrad, "FairGradWeighting", {"alpha": 1.0}, 1e-4),  # theirs is least squares to 1e-8 of cost
    "cagrad": (cagrad, "CAGradWeighting", {"c": 0.4}, 2e-3),  # theirs is an interior point method
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore")  # of their optional solvers
def test_weights_are_those_of_torchjd(name, seed):
    aggregation = pytest.importorskip("torchjd.aggregation", reason="torchjd is not installed")
    ours, theirs, keywords, tolerance = ORACLES[name]
    g = gramian(seed=seed)
    try:
        if name == "upgrad":
            linalg = pytest.importorskip("torchjd.linalg")
            keywords = {"projector": linalg.QuadprogProjector(norm_eps=1e-10, reg_eps=1e-10)}
        oracle = getattr(aggregation, theirs)(**keywords)
        expected = oracle(g)
    except ImportError as error:
        pytest.skip(f"an optional solver of torchjd is not installed: {error}")
    assert_close(ours(g), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def test_pcgrad_of_two_is_that_of_torchjd():
    """With two tasks there is no order to draw."""
    aggregation = pytest.importorskip("torchjd.aggregation", reason="torchjd is not installed")
    for seed in range(5):
        g = gramian(tasks=2, seed=seed)
        assert_close(pcgrad(g), aggregation.PCGradWeighting()(g))


def test_any_weighting_of_torchjd_is_a_strategy_too():
    """The plug-in: Gramian to weights, absent tasks left out, in float64 whatever came."""
    aggregation = pytest.importorskip("torchjd.aggregation", reason="torchjd is not installed")
    present, g = torch.tensor([True, False, True, True]), gramian(seed=3)
    here = g[present][:, present]
    theirs = aggregation.MGDAWeighting()
    assert_close(on_present(theirs, g.bfloat16(), present)[present], theirs(g.bfloat16().double()[present][:, present]))
    chosen = of_gramian(theirs, name="theirs", smoothing=0.0)
    losses = torch.ones(4, dtype=torch.float64)
    weights = chosen.weights(chosen.update(chosen.init(4), Observation(losses, present.double(), g)))
    assert weights[1] == 1 and theirs(here).argmax() == weights[present].argmax()
    assert_close(weights[present] / 3, theirs(here))
