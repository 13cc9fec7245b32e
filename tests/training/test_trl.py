"""TRL's SFTTrainer with a loss of ours, padded and padding-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.cases import definition, gradients, model_of, ragged_rows, relative_error, without

from sftloss.training import Loss, with_loss

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
from tests.training.test_trainer import arguments, train  # noqa: E402  skips this file too where a package is missing

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the packages below TRL
]
ROWS = without(ragged_rows(), "token_weights", "tasks", "row_ids")


def sft(path: Path, model: Any, loss: Any, batch: int, accumulation: int, **more: Any) -> tuple[Any, Any]:
    from tests.tiny import tiny_tokenizer

    data = datasets.Dataset.from_list([{name: value.tolist() for name, value in row.items()} for row in ROWS])
    args = arguments(
        path,
        batch,
        accumulation,
        trl.SFTConfig,
        **{"remove_unused_columns": True, "max_length": None, "bf16": False, "activation_checkpointing": False, **more},
    )
    cls = trl.SFTTrainer if loss is None else with_loss(trl.SFTTrainer, loss)
    return train(cls, model, args, data, data_collator=None, processing_class=tiny_tokenizer([]))


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (2, 4)])
@pytest.mark.parametrize("is_packed", [False, True])
def test_sft_trainer_step_has_the_gradient_of_the_whole_batch(
    batch: int, accumulation: int, is_packed: bool, tmp_path: Path
) -> None:
    model = model_of()
    loss = torch.stack([definition(model, [row]) for row in ROWS]).mean()
    loss.backward()
    truth = gradients(model)
    chosen = Loss(normalization="example-mean", normalizer="sequences")
    trainer, steps = sft(tmp_path, model, chosen, batch, accumulation, padding_free=is_packed)
    assert relative_error(steps[0], truth) < 1e-10
    assert trainer.state.log_history[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-6)


def test_cross_entropy_is_the_sft_trainers_own_loss(tmp_path: Path) -> None:
    own, expected = sft(tmp_path, model_of(dtype=torch.float32), None, 2, 4)
    ours, steps = sft(tmp_path, model_of(dtype=torch.float32), "cross_entropy", 2, 4)
    # two float32 orders of summation
    assert relative_error(steps[0], expected[0]) < 1e-5
    assert ours.state.log_history[0]["loss"] == pytest.approx(own.state.log_history[0]["loss"], rel=1e-5)


def test_sft_trainer_evaluates_with_our_loss(tmp_path: Path) -> None:
    trainer, _ = sft(tmp_path, model_of(), "cross_entropy", 8, 1)
    metrics = trainer.evaluate(trainer.train_dataset)
    model = trainer.model.eval()
    assert metrics["eval_loss"] == pytest.approx(float(definition(model, ROWS).detach()), abs=1e-10)


def test_sft_trainer_trains_adapters(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False)
    model = peft.get_peft_model(model_of(), config)
    definition(model, ROWS).backward()
    truth = gradients(model)
    assert all("lora" in name for name in truth)
    _, steps = sft(tmp_path, model, "cross_entropy", 2, 4)
    assert relative_error(steps[0], truth) < 1e-10


@pytest.mark.filterwarnings("ignore:.*save_embedding_layers:UserWarning")
def test_lora_on_the_head_trains_where_transformers_put_it_on(tmp_path: Path) -> None:
    """TRL refuses a PeftModel with it, for its own loss would pass the adapter by."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules=["q_proj", "lm_head"], r=2, init_lora_weights=False)
    with pytest.raises(ValueError, match="PEFT adapter to `lm_head`"):
        sft(tmp_path, peft.get_peft_model(model_of(), config), "cross_entropy", 2, 4)
    model = model_of()
    model.add_adapter(config)
    definition(model, ROWS).backward()
    truth = gradients(model)
    trainer, steps = sft(tmp_path, model, "cross_entropy", 2, 4)
    assert sum("lm_head.lora" in name for name in truth) == 2 and relative_error(steps[0], truth) < 1e-10
    trainer.save_model(str(tmp_path / "adapter"))
    loaded = peft.PeftModel.from_pretrained(model_of(), str(tmp_path / "adapter"))
    assert float(definition(loaded, ROWS).detach()) == pytest.approx(float(definition(model, ROWS).detach()), abs=1e-6)
