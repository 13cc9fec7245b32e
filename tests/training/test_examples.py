"""The example files run, alone and on two processes, and learn."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_plain_loop_runs() -> None:
    losses = load("plain_loop").main()
    assert len(losses) == 5 and all(0 < loss < 20 for loss in losses)


def test_accelerate_loop_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    losses = load("accelerate_loop").main()
    assert len(losses) == 5 and all(0 < loss < 20 for loss in losses)


def test_hf_trainer_runs(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    history = load("hf_trainer").main(str(tmp_path), use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False)
    assert [{"loss", "cross_entropy", "entropy"} <= set(line) for line in history[:5]] == [True] * 5
    assert any("eval_loss" in line for line in history)


def test_plain_module_trains_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    losses = load("own_host").main()
    assert len(losses) == 5 and losses[-1] < losses[0] - 0.5
    assert "own loop: Exact: 4 splits" in capsys.readouterr().out


@pytest.mark.slow  # alone they run above; the laws at two ranks have tests of their own
@pytest.mark.parametrize("name", ["plain_loop", "accelerate_loop", "own_host"])
def test_loops_run_on_two_processes(name: str) -> None:
    pytest.importorskip("accelerate")
    is_two = "import os, runpy, sys; assert os.environ['WORLD_SIZE'] == '2'; "
    # at once: gloo's threads may drop a tensor while the interpreter closes, which aborts the process
    told = is_two + "runpy.run_path(sys.argv[1], run_name='__main__'); sys.stdout.flush(); os._exit(0)"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*command, sys.executable, "-c", told, str(EXAMPLES / f"{name}.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("cross_entropy") == 5, "only rank 0 prints"
    assert name != "own_host" or "own loop: Exact: 6 splits" in done.stdout, "two of the splits are over the ranks"
