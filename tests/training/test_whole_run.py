"""Whole runs with plain cross-entropy, beside the hosts' own loss: the trained weights are equal to rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.cases import chunks, model_of, ragged_rows, relative_error, without

from sftloss.training import Loss, attach, collate_rows, with_loss

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from tests.training.test_trainer import arguments, train  # noqa: E402  skips this file too where a package is missing

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning"),
]
ROWS = without(ragged_rows(12), "token_weights", "tasks", "row_ids")
# 12 rows in windows of 2 x 4: each epoch ends with a window of half the size
LONG: dict[str, Any] = {"max_steps": 20, "learning_rate": 0.3, "max_grad_norm": 1.0, "optim": "sgd"}


def ended(path: Path, loss: Any, dtype: torch.dtype = torch.float32, **more: Any) -> tuple[dict[str, Any], list[float]]:
    """The weights after a run, and what it logged as its loss."""
    cls = transformers.Trainer if loss is None else with_loss(transformers.Trainer, loss)
    trainer, _ = train(cls, model_of(dtype=dtype), arguments(path, 2, 4, **LONG, **more), ROWS)
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    return weights, [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[float]]:
    return ended(tmp_path_factory.mktemp("truth"), Loss(), torch.float64)


def test_whole_run_is_the_trainers_own_to_rounding(truth: Any, tmp_path: Path) -> None:
    own, own_losses = ended(tmp_path, None)
    ours, our_losses = ended(tmp_path, Loss())
    assert len(our_losses) == 20 and our_losses[-1] < 0.8 * our_losses[0]
    # twenty steps of two float32 orders of summation
    assert relative_error(ours, own) < 1e-5
    assert our_losses == pytest.approx(own_losses, rel=1e-5) and our_losses == pytest.approx(truth[1], rel=1e-5)


def test_whole_run_with_another_loss_is_not(truth: Any, tmp_path: Path) -> None:
    """The negative control."""
    assert relative_error(ended(tmp_path, "focal(gamma=0.1)")[0], truth[0]) > 1e-4


@pytest.mark.parametrize(
    ("dtype", "more"),
    [pytest.param(torch.float32, {"bf16": True}, marks=pytest.mark.slow), (torch.bfloat16, {})],
    ids=["autocast", "bfloat16 weights"],
)
def test_whole_run_in_bfloat16_errs_at_most_twice_what_the_trainers_own_does(
    dtype: torch.dtype, more: dict[str, Any], truth: Any, tmp_path: Path
) -> None:
    own, _ = ended(tmp_path, None, dtype, **more)
    ours, _ = ended(tmp_path, Loss(), dtype, **more)
    assert relative_error(own, truth[0]) > 1e-4  # it did compute in bfloat16
    assert relative_error(ours, truth[0]) <= 2 * relative_error(own, truth[0])


def scaled(loss: Loss | None, dtype: torch.dtype | None) -> tuple[dict[str, Any], float]:
    """A loop with a gradient scaler, and where its scale ended: on a CPU the Trainer's own `fp16` does nothing."""
    model = model_of(dtype=torch.float64 if dtype is None else torch.float32)
    attachment = None if loss is None else attach(model, loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=dtype is not None)
    windows = [[collate_rows(part, pad_id=0) for part in chunks(rows, 2)] for rows in chunks(ROWS, 8)]
    for window in windows * 10:
        count = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in window)
        step: Any = torch.tensor(float(count)) if attachment is None else attachment.step(window)
        for batch in window:
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                value = model(**batch, num_items_in_batch=step).loss
            scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return {name: p.detach() for name, p in model.named_parameters()}, scaler.get_scale()


def test_whole_run_with_an_fp16_scaler_errs_at_most_twice_what_the_models_own_does() -> None:
    exact, _ = scaled(Loss(), None)
    (own, own_scale), (ours, our_scale) = scaled(None, torch.float16), scaled(Loss(), torch.float16)
    assert our_scale == own_scale == 2.0**10  # neither skipped a step
    assert 1e-5 < relative_error(ours, exact) <= 2 * relative_error(own, exact)


@pytest.mark.parametrize(
    "more",
    [{}, pytest.param({"padding_free": True}, marks=pytest.mark.slow), {"packing": True, "max_length": 24}],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the packages below TRL
def test_whole_run_is_trls_own_to_rounding(more: dict[str, Any], tmp_path: Path) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    from tests.tiny import tiny_tokenizer

    def run(loss: Any) -> tuple[dict[str, Any], list[float]]:
        options = {"remove_unused_columns": True, "max_length": None, "bf16": False, "activation_checkpointing": False}
        args = arguments(tmp_path, 2, 2, trl.SFTConfig, **{**LONG, **options, **more})
        data = datasets.Dataset.from_list([{name: value.tolist() for name, value in row.items()} for row in ROWS])
        cls = trl.SFTTrainer if loss is None else with_loss(trl.SFTTrainer, loss)
        given = {"data_collator": None, "processing_class": tiny_tokenizer([])}
        trainer, _ = train(cls, model_of(dtype=torch.float32), args, data, **given)
        if more.get("packing"):
            assert len(trainer.train_dataset) < len(ROWS)
        weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        return weights, [line["loss"] for line in trainer.state.log_history if "loss" in line]

    own, ours, other = run(None), run("cross_entropy"), run("focal(gamma=0.1)")
    # twenty steps of two float32 orders of summation
    assert relative_error(ours[0], own[0]) < 1e-5 and ours[1] == pytest.approx(own[1], rel=1e-5)
    assert relative_error(other[0], own[0]) > 1e-4  # the negative control
