"""The kernels compile for GPUs that are not here. That they are right is for `test_triton.py` to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels need Triton, which is built for Linux on x86-64")
SCRIPT = Path(__file__).with_name("kernels_for_devices.py")


@pytest.mark.parametrize(
    "device", ["H100", *(pytest.param(name, marks=pytest.mark.slow) for name in ("A100", "B200", "MI300"))]
)
def test_both_kernels_compile_with_the_fewest_and_with_all_branches(device: str, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, str(SCRIPT), device, str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    assert len(found) == 8
    assert {case: names for case, names in found.items() if names != ["_read", "_write"]} == {}
