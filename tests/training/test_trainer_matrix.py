"""The Trainer's other ways: adapters, checkpointing, packing, scalers, model_init, predict, the best model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.cases import definition, gradients, model_of, ragged_rows, relative_error, without

from sftloss.training import Loss, attachment_of, collate_rows, with_loss

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from tests.training.test_trainer import arguments, train  # noqa: E402  skips this file too where a package is missing

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning"),
]
ROWS = without(ragged_rows(), "token_weights", "tasks")
pad = partial(collate_rows, pad_id=0)
OURS = with_loss(transformers.Trainer, Loss())


def truth_of(model: Any) -> dict[str, torch.Tensor]:
    definition(model, ROWS).backward()
    return gradients(model)


@pytest.mark.parametrize("kind", ["body", "modules_to_save", "tied", "head", "tied head"])
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning")
def test_adapters_train_as_with_the_models_own_logits(kind: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    saved = ["lm_head"] if kind == "modules_to_save" else None
    targets = ["q_proj", "v_proj", *(["lm_head"] if "head" in kind else [])]
    config = peft.LoraConfig(target_modules=targets, r=2, init_lora_weights=False, modules_to_save=saved)
    model = peft.get_peft_model(model_of(tie_word_embeddings="tied" in kind), config)
    truth = truth_of(model)
    assert any("lora" in name for name in truth)
    assert any("lm_head" in name for name in truth) == (kind not in ("body", "tied"))
    _, (steps,) = train(OURS, model, arguments(tmp_path, 2, 4), ROWS)
    assert relative_error(steps, truth) < 1e-10


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_either_checkpointing_of_the_trainer_changes_nothing(use_reentrant: bool, tmp_path: Path) -> None:
    truth = truth_of(model_of())
    model = model_of()
    kwargs = {"use_reentrant": use_reentrant}
    args = arguments(tmp_path, 2, 4, activation_checkpointing=True, activation_checkpointing_kwargs=kwargs)
    _, (steps,) = train(OURS, model, args, ROWS)
    assert model.is_gradient_checkpointing
    assert relative_error(steps, truth) < 1e-10


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (2, 4)])
def test_padding_free_rows_have_the_gradient_of_padded_ones(batch: int, accumulation: int, tmp_path: Path) -> None:
    packed = partial(collate_rows, pad_id=0, packed=True)
    truth = truth_of(model_of())
    _, (steps,) = train(OURS, model_of(), arguments(tmp_path, batch, accumulation), ROWS, data_collator=packed)
    assert relative_error(steps, truth) < 1e-10


def test_fp16_scaler_scales_a_gradient_that_is_right_when_unscaled(tmp_path: Path) -> None:
    """No GPU: the scaler itself, on the CPU, around our loss; 2**16 must cost nothing."""
    truth = truth_of(model_of(dtype=torch.float32))
    cls, model = OURS, model_of(dtype=torch.float32)
    trainer = cls(model=model, args=arguments(tmp_path), train_dataset=ROWS, data_collator=pad)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    window = [pad(ROWS[i : i + 2]) for i in range(0, 8, 2)]
    items = trainer._get_num_items_in_batch(window, torch.device("cpu"))
    for batch in window:
        with torch.autocast("cpu", dtype=torch.float16):
            loss = trainer.compute_loss(model, batch, num_items_in_batch=items)
        assert loss.dtype == torch.float32
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    # the body multiplies in float16: 2**-11 a product
    assert relative_error(gradients(model), truth) < 0.05


def test_model_init_gives_each_run_its_loss(tmp_path: Path) -> None:
    made: list[Any] = []

    def init() -> Any:
        made.append(model_of())
        return made[-1]

    trainer = OURS(model_init=init, args=arguments(tmp_path), train_dataset=ROWS, data_collator=pad)
    trainer.train()
    assert len(made) == 2 and trainer.model is made[-1]
    assert attachment_of(trainer.model) is not None
    expected = float(definition(model_of(), ROWS).detach())
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-6)


def test_predict_gives_the_models_logits_and_our_loss(tmp_path: Path) -> None:
    model = model_of()
    expected = float(definition(model, ROWS).detach())
    rows = without(ROWS, "row_ids")
    trainer = OURS(model=model, args=arguments(tmp_path, per_device_eval_batch_size=8), data_collator=pad)
    output = trainer.predict(rows)
    assert output.metrics["test_loss"] == pytest.approx(expected, abs=1e-9)
    logits = model.eval()(pad(rows)["input_ids"], attention_mask=pad(rows)["attention_mask"]).logits
    torch.testing.assert_close(torch.tensor(output.predictions).double(), logits.detach(), rtol=1e-6, atol=1e-6)


def test_best_model_is_chosen_by_our_loss_and_still_trains(tmp_path: Path) -> None:
    args = arguments(
        tmp_path,
        max_steps=3,
        learning_rate=0.5,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        optim="sgd",
        lr_scheduler_type="constant",
    )
    trainer = OURS(model=model_of(), args=args, train_dataset=ROWS, eval_dataset=ROWS, data_collator=pad)
    trainer.train()
    seen = [line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line]
    assert trainer.state.best_metric == min(seen)
    assert attachment_of(trainer.model) is not None
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(seen), rel=1e-9)
