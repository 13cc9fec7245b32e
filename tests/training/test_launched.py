"""`accelerate launch` with the files of examples/: the Trainer's step on two ranks is that of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("engine", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_launched_trainer_has_the_gradient_of_one_process(engine: str, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    config = str(ROOT / "examples" / f"accelerate_{engine}.yaml")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--num_processes", "2"]
    script = [str(ROOT / "tests" / "training" / "launched_ranks.py"), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    port = ["--main_process_port", "0"]  # any free one
    done = subprocess.run([*command, *port, *script], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["world"] == 2
    assert found["is_sharded"] == [engine == "fsdp2"]
    # float64; ranks add in another order
    assert found["error"] < 1e-10
    assert found["mean of means"] > 0.01, "the negative control"
