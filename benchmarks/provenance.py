"""Where figures come from."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from importlib.metadata import version

import torch


def provenance(module: str, *packages: str) -> dict[str, str]:
    """Command, commit and machine of a record. Asked before measuring: others may commit while that runs."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    used = [f"torch {torch.__version__}", *(f"{name} {version(name)}" for name in packages)]
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    return {
        "command": shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]]),
        "commit": commit,
        "machine": ", ".join([machine, *used]),
    }
