"""Task weights under DDP and FSDP2: three steps on two ranks end where one process ends, weights equal bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.training.task_ranks import CASES

pytest.importorskip("transformers")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("task_ranks") / "found.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = str(ROOT / "tests" / "training" / "task_ranks.py")
    done = subprocess.run([*command, script, str(out)], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(out.read_text(encoding="utf-8")))


@pytest.mark.parametrize("case", CASES)
def test_ranks_end_where_one_process_ends_with_the_same_task_weights(case: str, found: dict[str, Any]) -> None:
    told = found[case]
    # float64; ranks add in another order
    assert told["weights"] < 1e-10 and told["bits"] == 0
    assert told["moved"] > 1e-4


def test_gradients_by_task_of_sharded_weights_are_refused_whenever_they_were_sharded(found: dict[str, Any]) -> None:
    assert all("its weights are sharded over ranks" in message for message in found["refused"])
