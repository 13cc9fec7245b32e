"""The commands of docs/scale.md as a user types them: two processes end where one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.finetune.runs import ROOT, environment

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
CONFIG = """
model: demo
data: demo
max-examples: 54
loss: focal(gamma=2)
normalization: sqrt
optimizer: sgd
learning-rate: 0.05
epochs: 1
dtype: float64
batch-size: 4
save-every: 3
device: cpu
"""
TORCHRUN = ["torchrun", "--standalone", "--nproc-per-node", "2", "--no-python"]
ACCELERATE = ["accelerate", "launch", "--config_file", str(ROOT / "examples" / "accelerate_ddp.yaml")]
ACCELERATE += ["--num_processes", "2", "--main_process_port", "0", "--no_python"]


def trained(folder: Path, launcher: list[str], *flags: str) -> dict[str, torch.Tensor]:
    (folder / "config.yaml").write_text(CONFIG)
    start = [str(BIN / launcher[0]), *launcher[1:]] if launcher else []
    output = ["--output", "_".join(("run", *flags)), *flags]
    command = [*start, str(BIN / "sftloss"), "train", "-c", "config.yaml", *output]
    given = {**environment(), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((folder / output[1] / "train.json").read_text())
    assert told["ranks"] == (2 if launcher else 1) and told["steps"] == (14 if "4" in flags else 7)
    return load_file(folder / output[1] / "model" / "model.safetensors")


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_launched_command_ends_where_one_process_ends(launcher: list[str], tmp_path: Path) -> None:
    ours, whole = trained(tmp_path, launcher), trained(tmp_path, [], "--batch-size", "8")
    half = trained(tmp_path, [], "--batch-size", "4")  # the negative control: what one process alone would end in
    assert ours.keys() == whole.keys()
    # float64; ranks add in another order
    assert max(float((ours[n] - whole[n]).norm() / whole[n].norm()) for n in whole) < 1e-10
    assert max(float((half[n] - whole[n]).norm() / whole[n].norm()) for n in whole) > 1e-5
