"""FAMO, CoBa and DoReMi: strategies that are told one small forward pass more."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sftloss.tasks.strategies import EXTRA, STRATEGIES, Observation, State, Strategy, coba, doremi, famo


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def run(chosen: Strategy, path: list[tuple[Tensor, Tensor]]) -> State:
    state = chosen.init(len(path[0][0]))
    for losses, extra in path:
        state = chosen.update(state, Observation(losses, torch.ones(len(losses)), extra=extra))
    return state


def test_famo_is_adam_on_the_logits_with_the_jacobian_of_the_softmax():
    """Against autograd and torch's own Adam, step by step."""
    generator = torch.Generator().manual_seed(0)
    chosen, xi = famo(lr=0.1, gamma=0.01), torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer, state = torch.optim.Adam([xi], lr=0.1, weight_decay=0.01), chosen.init(3)
    for _ in range(20):
        before, after = (torch.rand(3, generator=generator, dtype=torch.float64) + 0.1 for _ in range(2))
        (xi.grad,) = torch.autograd.grad(torch.softmax(xi, 0), xi, before.log() - after.log())
        optimizer.step()
        state = chosen.update(state, Observation(before, torch.ones(3), extra=after))
        assert_close(state["xi"], xi.detach(), rtol=1e-10, atol=1e-12)
    expected = torch.softmax(xi.detach(), 0) / before
    assert_close(chosen.weights(state), expected / expected.mean())


def test_famo_turns_to_the_task_that_improves_least():
    fall = double(0.5, 0.9, 0.99)
    levels = [fall**t for t in range(30)]
    state = run(famo(), list(pairwise(levels)))
    assert (state["xi"].diff() > 0).all()


def test_famo_leaves_an_absent_tasks_logit_and_the_others_share_among_themselves():
    chosen = famo()
    before = run(chosen, [(double(1.0, 2.0, 3.0), double(0.9, 1.0, 2.9))] * 4)
    seen = Observation(double(1.0, 0.0, 3.0), double(1.0, 0.0, 1.0), extra=double(0.5, 0.0, 2.0))
    after = chosen.update(before, seen)
    assert after["xi"][1] == before["xi"][1] and after["seen"][1] == before["seen"][1]
    assert (after["xi"] != before["xi"])[[0, 2]].all()


def test_doremi_is_exponentiated_gradient_of_the_clipped_excess_with_smoothing():
    chosen, excess = doremi(eta=0.5, smoothing=0.01), double(0.8, 0.1, 0.0)
    share = double(1, 1, 1) / 3
    for _ in range(5):
        share = torch.softmax(share.log() + 0.5 * excess, 0) * 0.99 + 0.01 / 3
    state = run(chosen, [(double(2.0, 2.0, 9.0), excess)] * 5)
    assert_close(chosen.weights(state), 3 * share)


def test_doremi_does_not_see_the_loss_itself_and_group_dro_does():
    """A task that is hard for everyone, the reference too, has no excess and gets no weight for it."""
    path = [(double(1.0, 8.0), double(0.3, 0.0))] * 10
    assert doremi().weights(run(doremi(), path))[0] > 1
    dro = STRATEGIES["group_dro"]()
    assert dro.weights(run(dro, path))[0] < 1


def test_doremi_never_starves_a_task():
    state = run(doremi(smoothing=0.1), [(double(1.0, 1.0), double(5.0, 0.0))] * 50)
    assert doremi().weights(state)[1] >= 0.1 - 1e-12


def coba_by_hand(ratios: Tensor, tau: float) -> Tensor:
    """The formulas on a whole history ``(times, tasks)`` at once, slopes from numpy's own fit."""
    import numpy as np

    times, tasks = ratios.shape
    slopes = torch.tensor(
        [[np.polyfit(np.arange(t), ratios[:t, k].numpy(), 1)[0] for k in range(tasks)] for t in range(2, times + 1)]
    )
    now, n = slopes[-1], len(slopes)
    relative = torch.softmax(tasks * now / now.abs().sum(), 0)
    absolute = torch.softmax(-n * now / slopes.abs().sum(0), 0)
    worst = slopes.max(1).values
    factor = min(1.0, float(n * torch.softmax(-tau * n * worst / worst.abs().sum(), 0)[-1]))
    return factor * relative + (1 - factor) * absolute


@pytest.mark.parametrize("last", [0.6, 1.4], ids=["converging", "diverging"])
def test_coba_is_its_three_scores(last):
    generator = torch.Generator().manual_seed(3)
    ratios = torch.cat([torch.ones(1, 3), 0.6 + 0.4 * torch.rand(6, 3, generator=generator)]).double()
    ratios[:, 2] = torch.linspace(1.0, last, 7)
    levels = double(2.0, 0.1, 30.0)
    chosen = coba(window=10, warmup=2, tau=5.0)
    weights = chosen.weights(run(chosen, [(levels, row * levels) for row in ratios]))
    expected = coba_by_hand(ratios, 5.0)
    assert_close(weights, expected / expected.mean(), rtol=1e-9, atol=0)


def test_coba_takes_weight_from_a_task_that_begins_to_diverge():
    """The relative score alone, which a tau of 0 leaves, would give it the most."""
    slow, turning = torch.linspace(1.0, 0.7, 30).double(), torch.linspace(1.0, 0.5, 30).double()
    turning[15:] = turning[15] + torch.linspace(0.05, 1.5, 15).double()
    path = list(torch.stack([slow, turning], 1))
    both = coba(window=10), coba(window=10, tau=1e-9)
    late, relative = (chosen.weights(run(chosen, [(row, row) for row in path])) for chosen in both)
    assert late[1] < 1 < late[0]
    assert relative[0] < 1 < relative[1]


def test_coba_keeps_its_weights_at_a_step_without_validation():
    chosen, path = coba(warmup=2), [(double(1.0, 2.0), double(1.0 - 0.1 * t, 2.0 - 0.05 * t)) for t in range(4)]
    before = run(chosen, path)
    after = chosen.update(before, Observation(double(3.0, 3.0), torch.ones(2)))
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("name", ["famo", "doremi"])
def test_a_strategy_that_needs_an_extra_pass_says_which(name):
    chosen = STRATEGIES[name]()
    with pytest.raises(ValueError, match=f"{name}: needs the ") as caught:
        chosen.update(chosen.init(2), Observation(torch.ones(2), torch.ones(2)))
    assert EXTRA[chosen.needs] in str(caught.value)
