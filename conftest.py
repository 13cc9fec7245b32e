"""What the examples in docstrings may use without importing it, and the quiet every test runs in."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import pytest

# before torch or transformers load: one thread a worker, and no test may reach for a network
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
if not os.path.exists("/dev/nvidia0"):
    os.environ.setdefault("TRITON_INTERPRET", "1")  # the kernels run in Triton's interpreter; read when it is imported

# before pytest imports a module by its file: it would put the module in place of the function of the same name
import sftloss  # noqa: E402

for _room in sftloss.__all__:
    getattr(sftloss, _room)

# examples are looked for where the module can be imported
needs = {
    "src/sftloss/statistics/backends/triton.py": "triton",
    "tests/statistics/kernels_for_devices.py": "triton",
    "tests/training/zero_ranks.py": "deepspeed",
}
collect_ignore = [file for file, package in needs.items() if not importlib.util.find_spec(package)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Where `make test-hosts` has installed what these tests need, one that skips has failed."""
    report = yield
    if report.skipped and os.environ.get("SFTLOSS_HOSTS"):
        report.outcome, report.longrepr = "failed", f"it must run here, and was skipped: {report.longrepr[-1]}"
    return report


@pytest.fixture(autouse=True)
def _examples(doctest_namespace: dict[str, Any]) -> None:
    """`torch`, `from_logits` and `Head` are known in every example."""
    import torch

    import sftloss

    doctest_namespace.update(torch=torch, Head=sftloss.Head, from_logits=sftloss.from_logits)
