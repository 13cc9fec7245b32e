"""The kernels compile for GPUs that are not here. That they are right is for `test_triton.py` to say."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.launching import launched

pytest.importorskip("triton", reason="the kernels need Triton, which is built for Linux on x86-64")


@pytest.mark.parametrize(
    "device", ["H100", *(pytest.param(name, marks=pytest.mark.slow) for name in ("A100", "B200", "MI300"))]
)
def test_both_kernels_compile_with_the_fewest_and_with_all_branches(device: str, tmp_path: Path) -> None:
    environment = {"DEVICE": device, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    results = launched("statistics/kernels_for_devices.py", tmp_path / "results.json", **environment)
    assert len(results) == 8
    assert {case: names for case, names in results.items() if names != ["_read", "_write"]} == {}
