"""The HF Trainer and TRL's SFTTrainer with a loss of ours: one line changed, the gradient of the whole batch."""

from __future__ import annotations

import logging
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.cases import definition, gradients, model_of, ragged_rows, relative_error, without

from sftloss.errors import ConfigError
from sftloss.training import Loss, LossTrainer, attach, collate_rows, with_loss

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
# peft 0.21 asks transformers 5.23 by a name that will go; a CPU has no memory to pin
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning"),
]
ROWS = ragged_rows()
PLAIN = without(ROWS, "token_weights", "tasks")


class Watch(transformers.TrainerCallback):
    """The gradients the optimizer is given."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.steps.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})


def arguments(path: Path, batch: int = 8, accumulation: int = 1, cls: Any = None, **more: Any) -> Any:
    options = {
        "max_steps": 1,
        "learning_rate": 0.0,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        **more,
    }
    return (cls or transformers.TrainingArguments)(
        output_dir=str(path), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, **options
    )


def train(cls: Any, model: Any, args: Any, rows: Any = ROWS, **more: Any) -> tuple[Any, list[dict[str, torch.Tensor]]]:
    """One run over the rows in their order."""
    watch = Watch()
    more = {"data_collator": partial(collate_rows, pad_id=0), **more}
    trainer = cls(model=model, args=args, train_dataset=rows, callbacks=[watch], **more)
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(trainer.train_dataset)
    trainer.train()
    return trainer, watch.steps


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (2, 4), (1, 8), (3, 3)])
@pytest.mark.parametrize(
    "loss",
    [Loss(normalization="sqrt"), Loss(normalization="example-mean", normalizer="sequences")],
    ids=["weights", "sequences"],
)
def test_trainer_step_has_the_gradient_of_the_whole_batch(
    loss: Loss, batch: int, accumulation: int, tmp_path: Path
) -> None:
    model = model_of()
    attachment = attach(model, loss)
    model(**collate_rows(ROWS, pad_id=0)).loss.backward()
    truth = gradients(model)
    value = attachment.metrics()
    attachment.detach()
    trainer, steps = train(with_loss(transformers.Trainer, loss), model, arguments(tmp_path, batch, accumulation))
    assert relative_error(steps[0], truth) < 1e-10
    log = trainer.state.log_history[0]
    assert log["loss"] == pytest.approx(value["loss"], rel=1e-6)  # the Trainer adds its losses in float32
    for name in ("cross_entropy", "entropy", "token_accuracy"):
        assert log[name] == pytest.approx(value[name], rel=1e-6)


def test_weights_pass_through_a_flattening_collator_and_another_is_refused(tmp_path: Path) -> None:
    rows = without(ROWS, "tasks", "roles", "row_ids")
    model = model_of()
    definition(model, ROWS, lambda row: row["token_weights"][1:].double()).backward()
    truth = gradients(model)
    trainer, args = with_loss(transformers.Trainer, Loss()), arguments(tmp_path, 3, 3)
    flatten = transformers.DataCollatorWithFlattening()
    lists = [{name: value.tolist() for name, value in row.items()} for row in rows]
    _, steps = train(trainer, model, args, lists, data_collator=flatten)
    assert relative_error(steps[0], truth) < 1e-6  # the lists' weights are float32 numbers

    def collate(rows: Any) -> Any:
        return collate_rows(without(rows, "token_weights"), pad_id=0)

    with pytest.raises(ConfigError, match="rows have token_weights, which the batches of function do not hold; use"):
        train(trainer, model_of(), args, rows, data_collator=collate)


def test_trainer_without_our_class_is_wrong_for_a_mean_of_its_own(tmp_path: Path) -> None:
    """The negative control: a compute_loss_func that is its micro-batch's mean is four times too large."""

    def mean(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        flat = outputs.logits[:, :-1].flatten(0, 1)
        return torch.nn.functional.cross_entropy(flat, labels[:, 1:].flatten(), ignore_index=-100)

    model = model_of()
    definition(model, PLAIN).backward()
    truth = gradients(model)
    rows = without(PLAIN, "row_ids")
    _, steps = train(transformers.Trainer, model, arguments(tmp_path, 2, 4), rows, compute_loss_func=mean)
    assert relative_error(steps[0], truth) > 1


@pytest.mark.parametrize("accumulation", [1, 4])
def test_cross_entropy_is_the_trainers_own_loss(accumulation: int, tmp_path: Path) -> None:
    rows = without(PLAIN, "row_ids")
    args = arguments(tmp_path, 8 // accumulation, accumulation)
    own, expected = train(transformers.Trainer, model_of(dtype=torch.float32), args, rows)
    ours, steps = train(with_loss(transformers.Trainer, Loss()), model_of(dtype=torch.float32), args, rows)
    # two float32 orders of summation
    assert relative_error(steps[0], expected[0]) < 1e-5
    for name in ("loss", "grad_norm"):
        assert ours.state.log_history[0].get(name) == pytest.approx(own.state.log_history[0].get(name), rel=1e-5)


def test_attached_model_in_a_plain_trainer_is_right_where_the_loss_counts_tokens(tmp_path: Path) -> None:
    model = model_of()
    attachment = attach(model, "focal(gamma=2)")
    model(**collate_rows(PLAIN, pad_id=0)).loss.backward()
    truth = gradients(model)
    _, steps = train(transformers.Trainer, model, arguments(tmp_path, 2, 4), PLAIN)
    assert relative_error(steps[0], truth) < 1e-6  # the Trainer's count of items is a float32 number
    attachment.detach()


def test_last_incomplete_window_is_divided_by_what_it_holds(tmp_path: Path) -> None:
    model = model_of()
    attachment = attach(model, Loss(normalization="sqrt"))
    model(**collate_rows(ROWS[6:], pad_id=0)).loss.backward()
    truth = gradients(model)
    attachment.detach()
    args = arguments(tmp_path, 2, 3, max_steps=2)
    _, steps = train(with_loss(transformers.Trainer, Loss(normalization="sqrt")), model, args)
    assert relative_error(steps[1], truth) < 1e-10


def test_step_with_nothing_to_learn_is_zero_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{**row, "labels": torch.full_like(row["labels"], -100)} for row in ROWS]
    with caplog.at_level(logging.WARNING, "sftloss.training"):
        train(with_loss(transformers.Trainer, Loss()), model_of(), arguments(tmp_path, 2, 4))
        assert not caplog.records
        trainer, steps = train(with_loss(transformers.Trainer, Loss()), model_of(), arguments(tmp_path, 2, 4), rows)
    assert [record.getMessage()[:44] for record in caplog.records] == ["sftloss: nothing was trained up to step 1 si"]
    line = trainer.state.log_history[0]
    assert line["loss"] == 0 and line["trained_tokens"] == 0 and "cross_entropy" not in line
    assert all(not gradient.any() for gradient in steps[0].values())


@pytest.mark.parametrize("size", [1, 3, 8])
def test_evaluation_loss_does_not_depend_on_the_evaluation_batch(size: int, tmp_path: Path) -> None:
    model = model_of().eval()
    attachment = attach(model, Loss(normalization="sqrt"))
    truth = float(model(**collate_rows(ROWS, pad_id=0)).loss.detach())
    attachment.detach()
    trainer = with_loss(transformers.Trainer, Loss(normalization="sqrt"))(
        model=model,
        args=arguments(tmp_path, per_device_eval_batch_size=size),
        eval_dataset=ROWS,
        data_collator=partial(collate_rows, pad_id=0),
    )
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(truth, abs=1e-10)
    assert {"eval_cross_entropy", "eval_entropy", "eval_token_accuracy"} <= set(metrics)


def test_compute_metrics_gets_the_models_logits(tmp_path: Path) -> None:
    rows = [{**row, "input_ids": row["input_ids"][:3], "labels": row["labels"][:3]} for row in PLAIN]
    model = model_of().eval()
    expected = model(collate_rows(rows, pad_id=0)["input_ids"]).logits.detach()
    seen = {}

    def metrics(prediction: Any) -> dict[str, float]:
        seen["logits"] = torch.tensor(prediction.predictions)
        return {"seen": 1.0}

    trainer = with_loss(transformers.Trainer, Loss())(
        model=model,
        args=arguments(tmp_path, per_device_eval_batch_size=4),
        eval_dataset=rows,
        data_collator=partial(collate_rows, pad_id=0),
        compute_metrics=metrics,
    )
    assert trainer.evaluate()["eval_seen"] == 1.0
    # batches of 4 and of 8 multiply in another order
    torch.testing.assert_close(seen["logits"].double(), expected, rtol=1e-6, atol=1e-6)


def test_unused_columns_are_removed_but_not_ours(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in row.items()} for row in ROWS]
    data = datasets.Dataset.from_list([{**row, "comment": "no"} for row in rows])
    trainer = with_loss(transformers.Trainer, Loss())(
        model=model_of(), args=arguments(tmp_path, remove_unused_columns=True), train_dataset=data
    )
    kept = set(trainer._remove_unused_columns(data).column_names)
    assert kept == {"input_ids", "labels", "token_weights", "roles", "tasks", "row_ids"}


def test_gradient_checkpointing_in_the_trainer_changes_nothing(tmp_path: Path) -> None:
    model = model_of()
    cls = with_loss(transformers.Trainer, Loss(normalization="sqrt"))
    _, (truth,) = train(cls, model, arguments(tmp_path, 2, 4))
    _, (steps,) = train(cls, model_of(), arguments(tmp_path, 2, 4, activation_checkpointing=True))
    assert relative_error(steps, truth) < 1e-10


def test_bf16_autocast_trains(tmp_path: Path) -> None:
    """Accelerate wraps our forward in autocast; the loss is float32 all the same."""
    args = arguments(tmp_path, 2, 4, bf16=True)
    trainer, (steps,) = train(with_loss(transformers.Trainer, Loss()), model_of(dtype=torch.float32), args)
    _, (truth,) = train(
        with_loss(transformers.Trainer, Loss()), model_of(dtype=torch.float32), arguments(tmp_path, 2, 4)
    )
    assert relative_error(steps, truth) < 0.1  # the body multiplies in bfloat16
    assert trainer.state.log_history[0]["loss"] > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is a second loss"),
        ({"use_liger_kernel": True}, "use_liger_kernel replaces"),
    ],
)
def test_second_loss_is_refused(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    args = arguments(tmp_path)
    for name, value in more.items():
        setattr(args, name, value)
    with pytest.raises(ConfigError, match=message):
        with_loss(transformers.Trainer, Loss())(model=model_of(), args=args)
    with pytest.raises(ConfigError, match="compute_loss_func is a second loss"):
        with_loss(transformers.Trainer, Loss())(
            model=model_of(), args=arguments(tmp_path), compute_loss_func=lambda *_, **__: None
        )


def test_trainer_class_itself_is_not_touched() -> None:
    before = dict(vars(transformers.Trainer))
    cls = with_loss(transformers.Trainer, Loss())
    assert dict(vars(transformers.Trainer)) == before
    assert issubclass(cls, transformers.Trainer) and cls.__name__ == "Trainer"


class Subclass(with_loss(transformers.Trainer, Loss("focal(gamma=2)", normalization="sqrt"))):  # type: ignore[misc]
    """A user's own subclass, written in a module."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        return super().compute_loss(*args, **kwargs)


class WithMeta(type):
    """A metaclass of somebody's Trainer."""


class MetaTrainer(transformers.Trainer, metaclass=WithMeta):
    """A Trainer whose class has a type of its own."""


def test_trainer_class_can_be_pickled_and_says_its_loss() -> None:
    loss = Loss("focal(gamma=2)", normalization="sqrt")
    for base in (transformers.Trainer, MetaTrainer):
        cls = with_loss(base, loss)
        again = pickle.loads(pickle.dumps(cls))
        assert issubclass(again, LossTrainer) and issubclass(again, base)
        assert again.training_loss.normalization == loss.normalization and str(again.training_loss) == str(loss)
        assert pickle.loads(pickle.dumps(with_loss(cls, "dft"))).training_loss.alpha == 0
    assert pickle.loads(pickle.dumps(Subclass)) is Subclass


def test_trainer_class_can_be_subclassed(tmp_path: Path) -> None:
    trainer, (steps,) = train(Subclass, model_of(), arguments(tmp_path, 2, 4))
    _, (truth,) = train(with_loss(transformers.Trainer, Subclass.training_loss), model_of(), arguments(tmp_path, 8, 1))
    assert trainer.calls == 4 and relative_error(steps, truth) < 1e-10


def test_the_first_step_and_the_one_after_an_evaluation_count_the_whole_window(tmp_path: Path) -> None:
    """The Trainer counts a step before it puts the model into training mode, which loading and evaluating leave off."""
    cls = with_loss(transformers.Trainer, Loss())
    found = {}
    for batch, accumulation in ((8, 1), (2, 4)):
        args = arguments(tmp_path, batch, accumulation, max_steps=2, eval_strategy="steps", eval_steps=1)
        _, found[batch] = train(cls, model_of().eval(), args, eval_dataset=ROWS)
    for whole, split in zip(found[8], found[2], strict=True):
        assert relative_error(split, whole) < 1e-10  # float64, another order of sums
