"""`accelerate launch` with the files of examples/: the Trainer's steps on several ranks are those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.launching import ROOT, launched

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
SLOW = (("fsdp2", 2), ("ddp", 4), ("fsdp2", 4))
LAUNCHES = [("ddp", 2), *(pytest.param(*way, marks=pytest.mark.slow) for way in SLOW)]


@pytest.mark.parametrize(("engine", "world"), LAUNCHES)
def test_launched_trainer_has_the_gradient_of_one_process(engine: str, world: int, tmp_path: Path) -> None:
    """In a window of three micro-batches a rank, and in the last, which holds one."""
    config = ["--config_file", str(ROOT / "examples" / f"accelerate_{engine}.yaml")]
    ranks = ["--num_processes", str(world), "--main_process_port", "0"]  # any free one
    launcher = ["accelerate.commands.launch", *config, *ranks]
    found = launched("training/launched_ranks.py", tmp_path / "found.json", *launcher, ACCELERATE_USE_CPU="true")
    assert found["world"] == world
    assert found["is_sharded"] == [engine == "fsdp2"]
    for (loss, gradient), (their_loss, their_gradient) in zip(found["errors"], found["mean of means"], strict=True):
        # float64; ranks add in another order
        assert loss < 1e-10 and gradient < 1e-10
        assert their_loss > 0.01 and their_gradient > 0.01, "the negative control"
    assert len(found["errors"]) == 2
