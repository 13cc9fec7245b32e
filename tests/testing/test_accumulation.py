"""The check finds the bugs it is for, says by how much, and finds nothing where nothing is."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.paths import ROOT
from tests.training.cases import model_of, ragged_rows, without
from torch import Tensor

from sftloss.testing import REASONS, assert_accumulation, check_accumulation, check_loop, check_trainer

transformers = pytest.importorskip("transformers")

ROWS = without(ragged_rows(), "token_weights", "tasks", "row_ids")


def batch_of(rows: Any) -> dict[str, Any]:
    from sftloss.training import collate_rows

    return collate_rows(rows, pad_id=0)


BATCH = batch_of(ROWS)


def losses(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each label and which count, in float64."""
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].flatten(0, 1).double()
    labels = batch["labels"][:, 1:].flatten()
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none", ignore_index=-100), labels != -100


def mean(model: Any, batch: Any) -> Tensor:
    values, counted = losses(model, batch)
    return values.sum() / counted.sum()


def right(model: Any, batch: Any, num_items_in_batch: Tensor) -> Tensor:
    return losses(model, batch)[0].sum() / num_items_in_batch


def ignores_items(model: Any, batch: Any, num_items_in_batch: Tensor) -> Tensor:
    return mean(model, batch)


def divides_twice(model: Any, batch: Any, num_items: Tensor) -> Tensor:
    return right(model, batch, num_items) * len(batch["labels"]) / len(BATCH["labels"])


def depends_on_the_batch(model: Any, batch: Any, num_items: Tensor) -> Tensor:
    """A weight relative to the micro-batch's largest loss."""
    values, _ = losses(model, batch)
    return (values * (values / values.max()).detach()).sum() / num_items


def unguarded(model: Any, batch: Any, num_items: Tensor) -> Tensor:
    """Right, but for a micro-batch with no label: 0 / 0 times 0."""
    values, counted = losses(model, batch)
    return values.sum() / counted.sum() * (counted.sum().double() / num_items)


def test_right_loss_is_exact() -> None:
    report = check_accumulation(right, model_of(), BATCH)
    assert report.is_exact and report.worst_error < 1e-12 and report.masked == 0
    assert report.sentence.startswith("Exact: 4 splits")
    assert {split.micro_batches for split in report.splits} == {(1,) * 8, (2,) * 4, (4, 4), (1, 7)}
    assert_accumulation(right, model_of(), BATCH)


def test_mean_of_means_is_found_and_named() -> None:
    report = check_accumulation(mean, model_of(), BATCH)
    assert not report.is_exact and report.worst_error > 0.05
    assert report.sentence.startswith("Mean of means: each micro-batch is divided by its own count, and the means are")
    with pytest.raises(AssertionError, match="Mean of means"):
        assert_accumulation(mean, model_of(), BATCH)


def test_ignored_number_of_items_is_found_and_its_factor_told() -> None:
    report = check_accumulation(ignores_items, model_of(), BATCH)
    by_size = {split.micro_batches: split for split in report.splits}
    # k means summed: some k times too large, not exactly, because the rows' means point elsewhere than their mean
    assert by_size[(1,) * 8].factor == pytest.approx(8, rel=0.3)
    assert by_size[(2,) * 4].factor == pytest.approx(4, rel=0.3)
    assert report.worst.micro_batches == (1,) * 8
    assert "summed over the window" in report.sentence and "times too large" in report.sentence
    assert f"{report.worst.factor:.2g} times" in report.sentence


def test_second_division_is_found_and_its_factor_told() -> None:
    report = check_accumulation(divides_twice, model_of(), BATCH)
    by_size = {split.micro_batches: split for split in report.splits}
    assert by_size[(1,) * 8].factor == pytest.approx(1 / 8, rel=1e-6)
    assert report.reason == "divided twice" and "8 times too small" in report.sentence


def test_a_second_division_by_the_number_of_items_is_named() -> None:
    """Every split agrees with the whole batch, because all are divided by the same square."""

    def squared(model: Any, batch: Any, num_items_in_batch: Tensor) -> Tensor:
        return losses(model, batch)[0].sum() / num_items_in_batch**2

    report = check_accumulation(squared, model_of(), BATCH)
    assert report.is_divided_twice and not report.is_exact and report.reason == "divided by items twice"
    assert "the gradient is a quarter, not a half" in report.sentence
    assert not check_accumulation(right, model_of(), BATCH).is_divided_twice


def test_sum_that_nothing_divides_is_told_from_a_mean() -> None:
    """Any split gives the same, so the law holds; what grows with the data is said all the same."""

    def total(model: Any, batch: Any, num_items_in_batch: Tensor) -> Tensor:
        return losses(model, batch)[0].sum()

    report = check_accumulation(total, model_of(), BATCH)
    assert report.is_exact and report.uses_items is False and "the loss is a sum" in report.sentence
    assert check_accumulation(right, model_of(), BATCH).uses_items is True
    averaged = check_accumulation(lambda model, batch: losses(model, batch)[0].sum(), model_of(), BATCH)
    assert averaged.reason == "divided twice" and "a sum that is normalized by nothing else" in averaged.sentence


def test_loop_is_held_to_the_law() -> None:
    def tutorial(model: Any, micro_batches: Any) -> None:
        for batch in micro_batches:
            (mean(model, batch) / len(micro_batches)).backward()

    def undivided(model: Any, micro_batches: Any) -> None:
        for batch in micro_batches:
            (losses(model, batch)[0].sum() / losses(model, BATCH)[1].sum() * len(micro_batches)).backward()

    def counted(model: Any, micro_batches: Any) -> None:
        items = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in micro_batches)
        for batch in micro_batches:
            right(model, batch, torch.tensor(items)).backward()

    assert check_loop(counted, model_of(), BATCH).is_exact
    found = check_loop(tutorial, model_of(), BATCH)
    assert found.reason == "mean of means"
    assert found.worst_error == pytest.approx(check_accumulation(mean, model_of(), BATCH).worst_error)
    assert check_loop(undivided, model_of(), BATCH).reason == "not divided"
    with pytest.raises(ValueError, match="leaves no finite, non-zero gradient"):
        check_loop(lambda *_: None, model_of(), BATCH)


@pytest.mark.slow
def test_loop_is_held_to_the_law_on_two_ranks() -> None:
    """A normalizer counted on each rank is right on one process and wrong on two."""
    script = """
import os, torch, torch.distributed as dist
from functools import partial
from sftloss.testing import check_loop
from tests.testing.test_accumulation import BATCH, losses, model_of
dist.init_process_group("gloo")
assert dist.get_world_size() == 2
def loop(model, micro_batches, is_global):
    items = sum((batch["labels"][:, 1:] != -100).sum() for batch in micro_batches).double()
    if is_global:
        dist.all_reduce(items)
        items /= dist.get_world_size()
    for batch in micro_batches:
        (losses(model, batch)[0].sum() / items).backward()
for is_global in (True, False):
    report = check_loop(partial(loop, is_global=is_global), model_of(), BATCH)
    if dist.get_rank() == 0:
        print(report.reason, "|", report, flush=True)
dist.barrier()
os._exit(0)
"""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    done = subprocess.run(
        [*command, sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = done.stdout.splitlines()
    assert first.startswith("exact | Exact: 6 splits")
    assert second.startswith("ranks | Right on one process, not on several: with ranks of 6 and 2 rows")


def test_loss_that_looks_at_its_micro_batch_is_found() -> None:
    report = check_accumulation(depends_on_the_batch, model_of(), BATCH)
    assert not report.is_exact
    assert "depends on the rows beside it" in report.sentence


def test_nan_of_a_micro_batch_without_labels_is_found() -> None:
    report = check_accumulation(unguarded, model_of(), BATCH)
    assert report.worst.error < 1e-12 and not report.is_exact
    assert report.sentence == "A micro-batch without a single label makes the loss or its gradient NaN."


def test_items_may_be_anything_that_adds_up() -> None:
    def sequences(model: Any, batch: Any, total: Tensor) -> Tensor:
        values, counted = losses(model, batch)
        counted = counted.view(len(batch["labels"]), -1)
        return (values.view_as(counted).sum(dim=1) / counted.sum(dim=1)).sum() / total

    # one a micro-batch is no count of anything in the step
    wrong = check_accumulation(sequences, model_of(), BATCH, items=lambda batch: 1)
    assert wrong.reason == "divided twice" and wrong.worst.factor == pytest.approx(1 / 8)
    assert check_accumulation(sequences, model_of(), BATCH, items=lambda batch: len(batch["labels"])).is_exact


def test_model_is_given_back_as_it_was() -> None:
    model = model_of()
    mean(model, BATCH).backward()
    model.model.layers[0].eval()
    before = [p.grad for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    check_accumulation(mean, model, BATCH)
    assert all(p.grad is grad for p, grad in zip(model.parameters(), before, strict=True))
    assert [module.training for module in model.modules()] == modes


def test_rows_of_one_length_are_refused_because_they_tell_nothing() -> None:
    ids = torch.randint(3, 61, (4, 6))
    with pytest.raises(ValueError, match="every row has 5 labels"):
        check_accumulation(mean, model_of(), {"input_ids": ids, "attention_mask": ids, "labels": ids})
    with pytest.raises(ValueError, match="at least two rows"):
        check_accumulation(mean, model_of(), {"input_ids": ids[:1], "labels": ids[:1]})


class MeanTrainer(transformers.Trainer):
    """What tutorials write."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: Any = False, num_items_in_batch: Any = None) -> Any:
        return mean(model, inputs)


@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")
@pytest.mark.parametrize(
    ("cls", "sentence"), [(transformers.Trainer, "Exact: 3 splits"), (MeanTrainer, "times too large")]
)
def test_trainers_are_held_to_the_law(cls: Any, sentence: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")

    def make(size: int, accumulation: int, clip: float = 0.0) -> Any:
        args = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            max_grad_norm=clip,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        return cls(model=model_of(dtype=torch.float32), args=args, train_dataset=ROWS, data_collator=batch_of)

    report = check_trainer(make)
    assert report.is_exact == (cls is transformers.Trainer)
    assert sentence in report.sentence
    with pytest.raises(ValueError, match="clipping hides"):
        check_trainer(partial(make, clip=1.0))


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the packages below TRL
@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")
def test_trl_is_held_to_the_law(tmp_path: Path) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    from tests.tiny import tiny_tokenizer

    data = datasets.Dataset.from_list([{name: value.tolist() for name, value in row.items()} for row in ROWS])

    def make(size: int, accumulation: int) -> Any:
        args = trl.SFTConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            max_grad_norm=0.0,
            max_length=None,
            bf16=False,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        model = model_of(dtype=torch.float32)
        return trl.SFTTrainer(model=model, args=args, train_dataset=data, processing_class=tiny_tokenizer([]))

    assert check_trainer(make).reason == "exact"


def test_every_reason_is_one_that_is_named() -> None:
    told = {check_accumulation(loss, model_of(), BATCH).reason for loss in (right, mean, divides_twice, unguarded)}
    assert told == {"exact", "mean of means", "divided twice", "empty micro-batch"} and told <= set(REASONS)
