"""Watching gradients logs their norms by group, names outliers, and changes nothing of the training."""

from __future__ import annotations

import logging
import pickle
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.tiny_models import tiny_model
from tests.training.cases import ragged_rows
from tests.training.test_trainer import arguments

from sftloss.errors import ConfigError
from sftloss.training import Loss, attach, collate_rows, per_example_gradients, with_loss
from sftloss.training.watch.gradients import GradientWatch

transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning"),
]
LOSS = Loss(roles={"prompt": 0.5, "response": 1.0}, tasks=("a", "b"))
BATCH = collate_rows(ragged_rows(8), pad_id=0)


def test_means_by_task_length_and_role() -> None:
    model = tiny_model("gpt2")
    attachment, watch = attach(model, LOSS), GradientWatch(every=2)
    norms = per_example_gradients(model, BATCH).norms
    watch.look(attachment, BATCH, 1)
    assert watch.take() == {}
    watch.look(attachment, BATCH, 2)
    watch.look(attachment, BATCH, 2)  # the second micro-batch of the step
    metrics = watch.take()
    assert metrics["gradient_norm"] == pytest.approx(float(norms.mean()))
    assert metrics["gradient_norm_max"] == pytest.approx(float(norms.max()))
    assert metrics["gradient_norm/task_b"] == pytest.approx(float(norms[BATCH["tasks"] == 1].mean()))
    roles = metrics["gradient_norm/role_prompt"] + metrics["gradient_norm/role_response"]
    assert roles == pytest.approx(metrics["gradient_norm"])
    lengths = (BATCH["attention_mask"].sum(1) - 1).tolist()  # prompts are trained too
    of_eight = [float(norm) for norm, length in zip(norms, lengths, strict=True) if 8 <= length < 16]
    assert metrics["gradient_norm/length_8"] == pytest.approx(sum(of_eight) / len(of_eight))
    assert watch.take() == {}


def test_a_loop_is_announced_once_also_where_a_training_goes_on(caplog: Any) -> None:
    model = tiny_model("gpt2")
    model.transformer.raw = torch.nn.Parameter(torch.ones(1))  # no layer that hooks can follow
    attachment, watch = attach(model, LOSS), GradientWatch(every=2)
    with caplog.at_level(logging.WARNING, "sftloss.training"):
        watch.look(attachment, BATCH, 10)
        watch.look(attachment, BATCH, 12)
    (record,) = caplog.records
    assert "hooks cannot follow transformer.raw" in record.getMessage()


def test_a_row_far_above_the_usual_is_named(caplog: Any) -> None:
    model = tiny_model("gpt2")
    attachment, watch = attach(model, LOSS), GradientWatch(every=1)
    for step in range(4):
        watch.look(attachment, BATCH, step)
    assert "gradient_outliers" not in watch.take()
    watch._sizes = type(watch._sizes)([size / 1000 for size in watch._sizes], maxlen=32)
    with caplog.at_level(logging.WARNING, logger="sftloss.training"):
        watch.look(attachment, BATCH, 4)
    assert "data.jsonl:" in watch.take()["gradient_outliers"]
    assert "unusually large at step 4 for data.jsonl:" in caplog.text


def test_a_sharded_model_is_named_and_watched_no_longer(caplog: Any) -> None:
    model = tiny_model("gpt2")
    attachment, watch = attach(model, LOSS), GradientWatch(every=1)
    next(model.parameters()).ds_id = 0  # as DeepSpeed marks what it holds in parts
    with caplog.at_level(logging.WARNING, "sftloss.training"):
        watch.look(attachment, BATCH, 0)
        watch.look(attachment, BATCH, 1)
    (record,) = [one for one in caplog.records if one.name == "sftloss.training"]
    assert "sharded (DeepSpeed ZeRO-3)" in record.getMessage() and watch.take() == {}


def test_a_training_goes_on_whatever_a_look_raises(caplog: Any, monkeypatch: Any) -> None:
    attachment, watch = attach(tiny_model("gpt2"), LOSS), GradientWatch(every=1)
    for error in (KeyError("x"), RuntimeError("no kernel"), TypeError("argument")):
        watch._is_off = False

        def raises(*arguments: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("sftloss.training.watch.gradients.per_example_gradients", raises)
        watch.look(attachment, BATCH, watch._last + 1)
        assert str(error) in caplog.text and watch._is_off and watch.take() == {}


def trained(path: Path, is_rounded: bool = False, **watch: Any) -> tuple[Any, list[torch.Tensor]]:
    """Three steps of a model with dropout."""
    torch.manual_seed(0)
    cls = with_loss(transformers.Trainer, LOSS, **watch)
    args = arguments(path, batch=4, accumulation=2, max_steps=3, learning_rate=0.01, seed=3, bf16=is_rounded)
    trainer = cls(
        model=tiny_model("gpt2"),
        args=args,
        train_dataset=ragged_rows(8),
        data_collator=partial(collate_rows, pad_id=0),
    )
    trainer.train()
    return trainer, [p.detach() for p in trainer.model.parameters()]


def test_watching_changes_no_bit_of_a_training_with_dropout(tmp_path: Path) -> None:
    _, plain = trained(tmp_path / "plain")
    trainer, watched = trained(tmp_path / "watched", watch="gradients", watch_every=2)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert ["gradient_norm/task_a" in line for line in lines] == [True, False, True]


def test_the_line_in_the_terminal_has_the_mean() -> None:
    from sftloss.finetune.callbacks import LogLines

    lines: list[str] = []
    state: Any = SimpleNamespace(is_world_process_zero=True, global_step=5, max_steps=10)
    LogLines(lines.append).on_log(None, state, None, {"gradient_norm": 1.25, "gradient_norm_max": 2.0})  # type: ignore[arg-type]
    assert lines == ["step 5/10  gradient norm 1.25"]


def test_a_look_computes_in_the_precision_of_the_training(tmp_path: Path, monkeypatch: Any) -> None:
    precision: list[Any] = []

    def look(self: Any, attachment: Any, batch: Any, step: int) -> None:
        precision.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))

    monkeypatch.setattr(GradientWatch, "look", look)
    trained(tmp_path, is_rounded=True, watch="gradients", watch_every=1)
    assert set(precision) == {torch.bfloat16}


def test_the_class_is_pickled_with_its_watch_and_another_word_is_refused() -> None:
    cls = with_loss(transformers.Trainer, LOSS, watch="gradients", watch_every=7)
    assert pickle.loads(pickle.dumps(cls))._watch_every == 7
    with pytest.raises(ConfigError, match="watch must be 'gradients' or None"):
        with_loss(transformers.Trainer, LOSS, watch="norms")
