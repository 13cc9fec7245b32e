"""The tutorial's demonstration as it is written there, from the front door, for each of its four strategies."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sftloss import MultiTaskLoss
from sftloss.tasks import TaskGradients

NAMES = ["qa", "summarization", "translation", "classification"]
STRATEGIES = ["uncertainty", "difficulty_adaptive", "gradient_balance", "performance_based"]


def curves(step: int) -> dict[str, float]:
    """Fast, middling, slow; and quick to the bottom, where it swings."""
    return {
        "qa": 2.0 * math.exp(-step * 0.1) + 0.5,
        "summarization": 3.0 * math.exp(-step * 0.05) + 1.0,
        "translation": 4.0 * math.exp(-step * 0.02) + 1.5,
        "classification": 1.5 * math.exp(-step * 0.15) + 0.3 + 0.1 * math.sin(step * 0.5),
    }


def demonstrated(strategy: str) -> tuple[MultiTaskLoss, list[dict]]:
    """Fifty steps. The gradients of the tasks are as large as their losses, in directions of their own."""
    multitask_loss = MultiTaskLoss(NAMES, weighting_strategy=strategy)
    model, told = nn.Linear(4, 1, bias=False), []
    nn.init.ones_(model.weight)
    gradients = TaskGradients(model, tasks=4)
    for step in range(50):
        task_losses = {name: value * model.weight[0, k] for k, (name, value) in enumerate(curves(step).items())}
        if strategy == "gradient_balance":
            gradients.add({k: task_losses[name] for k, name in enumerate(NAMES)})
        total_loss, loss_info = multitask_loss(task_losses)
        total_loss.backward()
        multitask_loss.step(gradients.gramian() if strategy == "gradient_balance" else None)
        gradients.zero()
        model.zero_grad()
        assert isinstance(loss_info["total_loss"], Tensor)
        told.append({k: v for k, v in loss_info.items()} | {"total": float(total_loss.detach())})
    return multitask_loss, told


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_demonstration_has_the_weights_that_the_text_promises(strategy: str) -> None:
    module, told = demonstrated(strategy)
    weights = dict(zip(NAMES, (float(w) for w in told[-1]["task_weights"]), strict=True))
    assert sum(weights.values()) == pytest.approx(4.0)
    losses = curves(48)
    if strategy in ("uncertainty", "gradient_balance"):  # the smaller the loss, here also the gradient, the larger
        assert sorted(weights, key=weights.__getitem__) == sorted(losses, key=losses.__getitem__, reverse=True)
    elif strategy == "difficulty_adaptive":  # the one that has come down least, in proportion
        first = curves(0)
        assert max(weights, key=weights.__getitem__) == max(NAMES, key=lambda name: losses[name] / first[name])
    else:  # in proportion to its level translation has come down slowest
        assert max(weights, key=weights.__getitem__) == "translation"
    assert len({round(float(w), 6) for w in told[-1]["task_weights"]}) == 4, "no strategy left its weights equal"


def test_four_strategies_end_with_four_different_rows_of_weights() -> None:
    """Tutorial flaw 7: three of them printed identical ones."""
    rows = {tuple(round(float(w), 3) for w in demonstrated(name)[1][-1]["task_weights"]) for name in STRATEGIES}
    assert len(rows) == 4


def test_statistics_have_the_tutorials_fields_and_sound_trends() -> None:
    stats = demonstrated("uncertainty")[0].get_task_statistics()
    for name in NAMES:
        seen = torch.tensor([curves(step)[name] for step in range(50)])
        told = stats[name]
        assert told["current_loss"] == pytest.approx(float(seen[-1]), rel=1e-6)  # losses were float32
        assert told["average_loss"] == pytest.approx(float(seen.mean()), rel=1e-6)
        assert told["loss_std"] == pytest.approx(float(seen.std()), rel=1e-6)
        assert told["num_updates"] == 50 and f"{told['current_loss']:.3f}"
    assert [stats[name]["loss_trend"] for name in NAMES[:3]] == ["decreasing"] * 3


def test_gradients_statistics_are_there_where_gradients_were() -> None:
    stats = demonstrated("gradient_balance")[0].get_task_statistics()
    norms = torch.tensor([curves(step)["qa"] for step in range(50)])
    assert stats["qa"]["average_gradient"] == pytest.approx(float(norms.mean()), rel=1e-6)
    assert stats["qa"]["gradient_std"] == pytest.approx(float(norms.std()), rel=1e-6)
    assert demonstrated("uncertainty")[0].get_task_statistics()["qa"]["average_gradient"] is None


def test_loop_without_any_step_is_told_so_where_it_asks_what_is_known() -> None:
    """The tutorial's own loop: it never says where an optimizer step ends."""
    module = MultiTaskLoss(NAMES, weighting_strategy="uncertainty")
    for step in range(5):
        module({name: torch.tensor(value) for name, value in curves(step).items()})
    with pytest.warns(UserWarning, match=r"5 forward passes without step\(\), so nothing has moved") as caught:
        module.get_task_statistics()
    assert caught[0].filename == __file__
    by_itself = MultiTaskLoss(NAMES, weighting_strategy="uncertainty", update_freq=1)
    for step in range(5):
        by_itself({name: torch.tensor(value) for name, value in curves(step).items()})
    assert by_itself.get_task_statistics()["qa"]["num_updates"] == 4
