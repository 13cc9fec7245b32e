"""Task weights under DDP and FSDP2: three steps on two ranks end where one process ends, weights equal bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
from tests.launching import torchrun
from tests.training.task_ranks import CASES

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("task_ranks") / "found.json"
    return torchrun("training/task_ranks.py", 2, out)


@pytest.mark.parametrize("case", CASES)
def test_ranks_end_where_one_process_ends_with_the_same_task_weights(case: str, found: dict[str, Any]) -> None:
    told = found[case]
    # float64; ranks add in another order
    assert told["weights"] < 1e-10 and told["bits"] == 0
    assert told["moved"] > 1e-4


def test_gradients_by_task_of_sharded_weights_are_refused_whenever_they_were_sharded(found: dict[str, Any]) -> None:
    assert all("its weights are sharded over ranks" in message for message in found["refused"])
