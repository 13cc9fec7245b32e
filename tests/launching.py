"""Starts scripts on several processes, as users do; each writes what it found as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from tests.paths import ROOT

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node")


def launched(script: str, out: Path, *launcher: str, timeout: int = 240, **environment: str) -> dict[str, Any]:
    """What `tests/<script>` wrote to `out`, started by `python -m <launcher>`, or by itself without one."""
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, *(("-m", *launcher) if launcher else ()), str(ROOT / "tests" / script), str(out)]
    environment = {**os.environ, **fixed, **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(out.read_text(encoding="utf-8")))


def torchrun(script: str, world: int, out: Path, **more: Any) -> dict[str, Any]:
    """The same by torchrun, on `world` processes, of which the script must have seen all."""
    found = launched(script, out, *TORCHRUN, str(world), **more)
    assert found["world"] == world
    return found


def conclude(found: Mapping[str, Any], out: str) -> None:
    """The end of such a script: rank 0 writes what was found and the number of ranks, and all leave."""
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps({**found, "world": dist.get_world_size()}), encoding="utf-8")
    dist.barrier()
    os._exit(0)  # gloo's threads may still drop a tensor, which aborts a closing interpreter
