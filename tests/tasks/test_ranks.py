"""Two real ranks, one process each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist
from tests.launching import torchrun

from sftloss.tasks import STRATEGIES


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo")
def test_two_ranks_hold_the_weights_of_one_process_bit_for_bit(tmp_path: Path) -> None:
    """Tutorial flaws B32 and 15: each rank had weights of its own."""
    found = torchrun("tasks/two_ranks.py", 2, tmp_path / "found.json", timeout=120)
    assert found["compared"] == [name for name, make in STRATEGIES.items() if make().needs != "gramian"]
