"""What task weights cost, in matrix operations; benchmarks/multitask.py has the times and the peers."""

from __future__ import annotations

from argparse import Namespace

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("benchmarks.multitask", reason="no benchmarks beside the tests")
from benchmarks.multitask import case, loss_only, one_pass, plain
from torch.utils.flop_counter import FlopCounterMode

from sftloss.tasks import STRATEGIES

# peft 0.21 asks transformers 5.23 by a name that will go
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
SMALL = Namespace(tasks=4, rows=4, columns=16, width=256, layers=1, rank=4, vocab=512)


LOSS_ONLY = [name for name, make in STRATEGIES.items() if make().needs == "losses"]


def operations(step) -> int:
    step()  # the first pass of a capture is verified
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def test_task_weights_cost_what_is_promised() -> None:
    """Loss-only strategies: no operation more. Capture and UPGrad: the adapters' own gradients once more."""
    small = case(SMALL)
    base = operations(plain(small))
    assert [name for name in LOSS_ONLY if operations(loss_only(small, name)) != base] == []
    assert base < operations(one_pass(small)) <= 1.02 * base
