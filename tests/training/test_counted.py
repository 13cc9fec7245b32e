"""The number of trained tokens that the collator counts on the host reaches the fused loss of the very same batch."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tests.training.cases import model_of, ragged_rows, without

from sftloss.statistics import IGNORED
from sftloss.training import CountTrained, Loss, TaskFactors, attach, attachment, collate_rows, step_total, weigh_batch
from sftloss.training.batch.fill import Filler, FillerCollator
from sftloss.training.passes import Trained

pytest.importorskip("transformers")

ROWS = without(ragged_rows(), "tasks")
pad = partial(collate_rows, pad_id=0)
LOSSES = {
    "plain": Loss(),
    "roles": Loss(roles={"prompt": 0.1, "response": 1.0}),
    "responses": Loss(roles={"response": 1.0}),
    "example-mean": Loss("focal(gamma=2)", normalization="example-mean"),
}


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int]]:
    """The counted= of every fused loss, and how many tokens it should have been."""
    calls = []
    fused = attachment.weighted_loss

    def watched(hidden: Any, head: Any, targets: Any, c: Any, *rest: Any, plan: Any, **more: Any) -> Any:
        calls.append((plan.counted, int(((targets != IGNORED) & (c != 0)).sum())))
        return fused(hidden, head, targets, c, *rest, plan=plan, **more)

    monkeypatch.setattr(attachment, "weighted_loss", watched)
    return calls


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("packed", [False, True])
def test_the_fused_loss_is_told_how_many_tokens_of_the_batch_are_trained(
    loss: Loss, packed: bool, plans: list[tuple[Any, int]]
) -> None:
    rows = [{**row, "token_weights": row["token_weights"].index_fill(0, torch.tensor([2]), 0.0)} for row in ROWS]
    batch = CountTrained(partial(pad, packed=packed), loss)(rows)
    attach(model := model_of(), loss)
    model(**batch, num_items_in_batch=step_total(loss, [batch])).loss.backward()
    ((counted, number),) = plans
    assert counted == number > 0


def test_another_batch_than_the_counted_one_is_counted_anew(plans: list[tuple[Any, int]]) -> None:
    batch = CountTrained(pad, Loss())(ROWS)
    names = ("input_ids", "labels", "attention_mask", "token_weights")
    attach(model := model_of(), Loss())
    model(**{name: batch[name][:3] for name in names}, trained_tokens=batch["trained_tokens"])
    assert plans[0][0] is None and "trained_tokens" not in weigh_batch(Loss(), batch)
    with pytest.raises(RuntimeError, match="is not the number of tokens"):
        model(**{**batch, "labels": torch.full_like(batch["labels"], IGNORED)})


def test_factors_by_task_may_be_zero_so_nothing_is_counted() -> None:
    loss = Loss(tasks=TaskFactors((1.0, 0.0)))
    assert "trained_tokens" not in CountTrained(pad, loss)(ragged_rows())


def test_fillers_are_not_counted() -> None:
    batch = FillerCollator(CountTrained(pad, Loss()))([*ROWS[:3], Filler(ROWS[0])])
    assert "trained_tokens" not in batch


def test_a_trainer_counts_in_its_collator(tmp_path: Any, plans: list[tuple[Any, int]]) -> None:
    transformers = pytest.importorskip("transformers")
    from sftloss.training import with_loss

    args = transformers.TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=3, use_cpu=True, report_to="none", save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    trainer = with_loss(transformers.Trainer, Loss())(model_of(), args, train_dataset=ROWS, data_collator=pad)
    assert isinstance(trainer.data_collator(ROWS[:2])["trained_tokens"], Trained)
    trainer.train()
    assert len(plans) == 2 and all(counted == number > 0 for counted, number in plans)


def test_roles_below_zero_need_a_normalizer_that_is_no_sum_of_weights():
    roles = {"prompt": -1.0, "response": 1.0}
    with pytest.raises(ValueError, match="choose the normalizer tokens or sequences"):
        Loss(roles=roles)
    collate = CountTrained(partial(collate_rows, pad_id=0), Loss(roles=roles, normalizer="tokens"))
    batch = collate([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "roles": [0, 0, 1]}])
    assert batch["trained_tokens"].number == 2
