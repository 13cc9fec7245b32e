"""Rows that do not go round over the ranks, and ranks with fewer micro-batches, are still the one whole batch."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import pytest
import torch
from tests.launching import torchrun
from tests.training.cases import ragged_rows
from torch.utils.data import BatchSampler, SequentialSampler

from sftloss.training import Loss, collate_rows, step_total
from sftloss.training.batch.fill import Filled, FilledBatches, FillerCollator
from sftloss.training.hosts.trainer import _is_table

pytest.importorskip("accelerate")
EXACT = [
    *("trainer", "prompt weights", "length groups", "compute_metrics", "counted"),
    *("sft", "sft, padding-free", "sft, modules_to_save", "sft, LoRA on the head"),
    *("three micro-batches and one", "two micro-batches and none"),
]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Errors by case, from one torchrun."""
    for package in ("transformers", "trl", "peft", "datasets"):
        pytest.importorskip(package)
    out = tmp_path_factory.mktemp("uneven") / "errors.json"
    return torchrun("training/uneven_ranks.py", request.param, out, ACCELERATE_USE_CPU="true")


@pytest.mark.parametrize("case", EXACT)
def test_what_does_not_go_round_is_the_one_whole_batch(case: str, found: dict[str, Any]) -> None:
    """Gradient, evaluation loss and trained tokens; float64, ranks add in another order."""
    assert max(found[case].values()) < 1e-10


def test_repeated_rows_fail_this_law(found: dict[str, Any]) -> None:
    """The negative control: the rows as Accelerate hands them out."""
    assert min(found["repeated rows"].values()) > 0.1


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 7, 8, 13])
def test_each_row_is_drawn_once_in_batches_of_one_size(rows: int, split: bool) -> None:
    from accelerate.data_loader import BatchSamplerShard

    ranks, size = 3, 6 if split else 2
    batches = FilledBatches(BatchSampler(SequentialSampler(range(rows)), size, drop_last=False), 6)
    shards = [BatchSamplerShard(batches, ranks, rank, split_batches=split) for rank in range(ranks)]
    drawn = [list(shard) for shard in shards]
    assert {len(each) for each in drawn} == {len(shard) for shard in shards} == {-(-rows // 6)}
    together = [i for each in zip(*drawn, strict=True) for batch in each for i in batch]
    assert [i for i in together if i >= 0] == list(range(rows))
    assert {len(batch) for each in drawn for batch in each} == {2}


def test_filled_rows_are_those_of_the_data_and_come_through_a_worker() -> None:
    rows = ragged_rows(3)
    data = pickle.loads(pickle.dumps(Filled(rows)))
    assert len(data) == 3
    batch = FillerCollator(partial(collate_rows, pad_id=0))(data.__getitems__([2, -1, -1]))
    assert batch["row_ids"] == ["data.jsonl:3", "data.jsonl:1", "data.jsonl:1"]
    assert not batch["token_weights"][1:].any() and (batch["labels"][1:] == -100).all()
    alone = collate_rows(rows[2:], pad_id=0)
    assert step_total(Loss(), [batch]).total == pytest.approx(float(step_total(Loss(), [alone]).total))


def test_wrapper_around_a_table_keeps_what_it_makes_of_the_rows() -> None:
    """To remove the columns of what says a table's column names would give the bare table back."""
    table = pytest.importorskip("datasets").Dataset.from_list([{"input_ids": [1, 2]}])
    wrapped = Filled(table)
    assert wrapped.column_names == table.column_names
    assert _is_table(table) and not _is_table(wrapped)


def test_fillers_beside_rows_without_padding_are_left_out() -> None:
    flat = partial(collate_rows, pad_id=0, packed=True)
    data = Filled(ragged_rows(3))
    batch, alone = FillerCollator(flat)(data.__getitems__([1, 2, -1])), flat(ragged_rows(3)[1:])
    assert all(torch.equal(batch[n], alone[n]) for n in ("input_ids", "labels", "position_ids"))
    nothing = FillerCollator(flat)(data.__getitems__([-1, -1]))
    assert step_total(Loss(roles={"prompt": 0.5, "response": 1.0}), [nothing]).total == 0
