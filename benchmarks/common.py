"""What the benchmarks share: turns in a random order, ratios, fresh processes, tables and records."""

from __future__ import annotations

import json
import platform
import random
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Seconds = dict[str, dict[str, list[float]]]  # by contender and clock, one number a round


def timed(runs: Mapping[str, Callable[[], object]], rounds: int) -> Seconds:
    """Time every contender once a round, by both clocks; the first round warms up and is not counted.

    Each round has an order of its own, so that no contender always runs after the same other one.
    """
    wait = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    seconds: Seconds = {name: {clock: [] for clock in CLOCKS} for name in runs}
    order, shuffler = list(runs), random.Random(0)
    for turn in range(rounds + 1):
        shuffler.shuffle(order)
        for name in order:
            wait()
            start = {clock: read() for clock, read in CLOCKS.items()}
            runs[name]()
            wait()
            if turn:
                for clock, read in CLOCKS.items():
                    seconds[name][clock].append(read() - start[clock])
    return seconds


def ratios(mine: list[float], other: list[float]) -> list[float]:
    """Return median, smallest and largest ratio of runs of the same round."""
    values = [a / b for a, b in zip(mine, other, strict=True)]
    return [round(value, 3) for value in (statistics.median(values), min(values), max(values))]


def in_fresh_process(module: str, call: str) -> Any:
    """Return what a call of a function of `benchmarks.<module>` gives in a process of its own."""
    code = f"import json; from benchmarks.{module} import *; print(json.dumps({call}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"benchmarks.{module}: {call} failed in a process of its own.\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def resident_mib(field: str) -> float:
    """Return the resident memory now (VmRSS) or its peak (VmHWM). ``getrusage`` would inherit the parent's peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}; the memory figures need Linux.")


def print_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one line a contender. Three numbers are a median and its range; a missing figure is blank."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [["", *columns], *([name, *(_cell(row.get(column)) for column in columns)] for name, row in rows.items())]
    widths = [max(len(line[k]) for line in cells) for k in range(len(columns) + 1)]
    print(f"\n{title}")
    for line in cells:
        padded = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *padded]).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return "{:.2f} ({:.2f} to {:.2f})".format(*value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def provenance(module: str, *packages: str) -> dict[str, str]:
    """Return command, commit and machine of a record. Call it before measuring: the commit may change meanwhile."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    used = [f"torch {torch.__version__}", *(f"{name} {version(name)}" for name in packages)]
    return {
        "command": shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]]),
        "commit": commit,
        "machine": ", ".join([platform.machine(), device, *used]),
    }


def write_json(path: Path | None, record: Any) -> None:
    """Write a record for machines, where a path was given."""
    if path is not None:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
