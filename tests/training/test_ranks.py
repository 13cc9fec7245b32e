"""Several processes have the gradient of one; a launcher that silently starts one process fails these tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")
ROOT = Path(__file__).resolve().parents[2]
EXACT = [
    *("ddp", "attach after ddp", "masked rank", "fsdp2", "fsdp2, head alone", "accelerate", "trainer"),
    *(f"LoRA on the head, {how}" for how in ("ddp", "fsdp2", "attached, then fsdp2")),
    "LoRA on the head alone in fsdp2",
]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def errors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Relative gradient errors by case, from one torchrun."""
    out = tmp_path_factory.mktemp("ranks") / "errors.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(request.param)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    script = str(ROOT / "tests" / "training" / "ranks.py")
    done = subprocess.run([*command, script, str(out)], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["world"] == request.param
    return found


@pytest.mark.parametrize("case", EXACT)
def test_ranks_have_the_gradient_of_one_process_on_the_whole_batch(case: str, errors: dict[str, float]) -> None:
    # float64; ranks add in another order
    assert errors[case] < 1e-10


def test_mean_of_means_over_ranks_fails_this_law(errors: dict[str, float]) -> None:
    """The negative control."""
    assert errors["mean of means"] > 0.01
