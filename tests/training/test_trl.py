"""TRL's SFTTrainer with a loss of ours, padded and padding-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny_models import tiny_model
from tests.training.cases import definition, gradients, model_of, ragged_rows, relative_error, without

from sftloss.errors import ConfigError
from sftloss.roles import ROLES
from sftloss.training import Loss, TaskFactors, with_loss

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


def sft(
    path: Path, model: Any, loss: Any, batch: int, accumulation: int, rows: Any = ROWS, **more: Any
) -> tuple[Any, Any]:
    from tests.tiny import tiny_tokenizer

    plain = [{n: v.tolist() if isinstance(v, torch.Tensor) else v for n, v in row.items()} for row in rows]
    data = datasets.Dataset.from_list(plain)
    args = arguments(
        path,
        batch,
        accumulation,
        trl.SFTConfig,
        **{"remove_unused_columns": True, "max_length": None, "bf16": False, "activation_checkpointing": False, **more},
    )
    cls = trl.SFTTrainer if loss is None else with_loss(trl.SFTTrainer, loss)
    return train(cls, model, args, data, data_collator=None, processing_class=tiny_tokenizer([]))


WEIGHED = ragged_rows()
TASKS = Loss(tasks=TaskFactors({"a": 1.0, "b": 0.5}))


def weighed_truth(rows: Any) -> tuple[Any, float]:
    """The weighted sum of the two tasks' means, from the model's own logits."""
    model = model_of()
    tasks = [[row for row in rows if row["tasks"] == task] for task in (0, 1)]
    means = [definition(model, task, lambda row: row["token_weights"][1:]) for task in tasks]
    loss = means[0] + 0.5 * means[1]
    loss.backward()
    return gradients(model), float(loss.detach())


@pytest.mark.filterwarnings("ignore:.*keep_end:FutureWarning")
@pytest.mark.parametrize("how", ["padded", "padding-free", "packed", "truncated"])
def test_weights_and_tasks_pass_through_trls_collator_and_packing(how: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "padded": {},
        "padding-free": {"padding_free": True},
        "packed": {"packing": True, "max_length": 24},
        "truncated": {"max_length": 8, "truncation_mode": "keep_end"},
    }[how]
    rows = WEIGHED
    if how == "truncated":
        rows = [{n: v[-8:] if isinstance(v, torch.Tensor) else v for n, v in row.items()} for row in WEIGHED]
    truth, value = weighed_truth(rows)
    trainer, steps = sft(tmp_path, model_of(), TASKS, 8, 1, rows=WEIGHED, **more)
    assert relative_error(steps[0], truth) < 1e-6  # float32 weights
    log = trainer.state.log_history[0]
    assert log["loss"] == pytest.approx(value, rel=1e-6)
    assert log["signal_share/a"] + log["signal_share/b"] == pytest.approx(1)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    assert batch["labels"].shape == batch["token_weights"].shape
    assert str(batch["row_ids"]).count("data.jsonl") >= 2


def test_roles_pass_through_trls_packing(tmp_path: Path) -> None:
    rows = without(WEIGHED, "token_weights", "tasks")
    system, response = ROLES.index("system"), ROLES.index("response")
    rows = [{**row, "roles": torch.where(row["labels"] == -100, system, response)} for row in rows]
    for row in rows:
        row["labels"] = row["input_ids"].clone()
    loss = Loss(roles={"system": 0.25, "response": 1.0})
    steps = {
        packing: sft(tmp_path, model_of(), loss, 8, 1, rows=rows, packing=packing, max_length=24)[1][0]
        for packing in (False, True)
    }
    assert relative_error(steps[True], steps[False]) < 1e-10


def test_packing_refuses_a_column_that_is_not_one_value_a_token(tmp_path: Path) -> None:
    rows = [{**row, "token_weights": row["token_weights"][:2]} for row in WEIGHED]
    with pytest.raises(ConfigError, match=r"a row has 2 values of token_weights for \d+ tokens"):
        sft(tmp_path, model_of(), TASKS, 8, 1, rows=rows, packing=True, max_length=24)


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


PAIRS = [{"prompt": f"what is {i}?", "completion": " a number" * (1 + i % 3)} for i in range(8)]


@pytest.mark.parametrize("how", [{}, {"padding_free": True}, {"packing": True, "max_length": 64}])
def test_prompts_of_pairs_get_their_weight_and_a_log_of_answers_alone(how: dict[str, Any], tmp_path: Path) -> None:
    """TRL's labels ignore exactly the prompts of such rows, so roles are known; with other rows they have to be given.

    The logged cross-entropy is that of the answers, whatever the prompts weigh.
    """
    logs, grads = [], []
    for weight in (0.0, 0.5):
        loss = Loss(roles={"prompt": weight, "response": 1.0})
        trainer, steps = sft(tmp_path, tiny_model("llama", 320).double().train(), loss, 8, 1, rows=PAIRS, **how)
        logs.append(trainer.state.log_history[0])
        grads.append(steps[0])
    assert logs[0]["cross_entropy"] == pytest.approx(logs[1]["cross_entropy"], rel=1e-9)
    assert logs[1]["trained_tokens"] > logs[0]["trained_tokens"] and logs[1]["loss"] != pytest.approx(logs[0]["loss"])
    assert logs[0]["loss"] == pytest.approx(logs[0]["cross_entropy"], rel=1e-6)
    assert relative_error(grads[1], grads[0]) > 1e-3
