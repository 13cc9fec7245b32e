"""Compile the kernels, through the calls the engine makes, for the GPU that DEVICE names; JSON to a file.

The interpreter runs Python, so it passes what the compiler refuses: a variable that changes its type in a loop, a dtype
without an instruction. A driver that compiles for a named target and launches nothing stands in for the device. Run
without TRITON_INTERPRET, so in a process of its own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from sftloss.statistics import FIELDS, Head
from sftloss.statistics.backends import triton as kernels
from sftloss.statistics.backends.plain import Chunk, Keep
from sftloss.statistics.backends.rows import RowGradient, RowNumbers, Sums
from sftloss.statistics.plan import Buffers

TARGETS = {
    "A100": GPUTarget("cuda", 80, 32),
    "H100": GPUTarget("cuda", 90, 32),
    "B200": GPUTarget("cuda", 100, 32),
    "MI300": GPUTarget("hip", "gfx942", 64),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
TOKENS, COLUMNS = 2, 4096 + 8  # more than a program holds at once


class Driver:
    """Says which device is there, and takes what is compiled for it."""

    def __init__(self, target: GPUTarget, compiled: list[Any]) -> None:
        self.target = target
        self.utils = SimpleNamespace(
            load_binary=lambda *_: (0, 0, 0, 0, 1024),
            unload_module=lambda _: None,
            get_device_properties=lambda _: {"max_shared_mem": 2**16, "multiprocessor_count": 1, "warpSize": 32},
        )
        self.launcher_cls = lambda source, metadata: lambda *given: compiled.append(metadata.name)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def launch(dtype: torch.dtype, has_all: bool) -> None:
    """The kernel that reads and the one that writes, with the fewest and with all of their branches."""
    wide = torch.promote_types(dtype, torch.float32)  # products of low precision are summed in float32
    bias = torch.zeros(COLUMNS, dtype=dtype) if has_all else None
    weight = torch.zeros(COLUMNS, 4, dtype=dtype)
    head = Head(weight, bias, scale=0.5, softcap=30.0) if has_all else Head(weight)
    backend = kernels.TritonBackend(head, wide, dtype, COLUMNS)
    chunk = Chunk(torch.zeros(TOKENS, 4, dtype=dtype), torch.zeros(TOKENS, dtype=torch.long))
    sums = Sums.start(FIELDS if has_all else (), TOKENS, chunk.hidden, wide)
    block = backend.read(chunk, slice(0, COLUMNS), sums, Buffers(chunk.hidden, wide), Keep(is_whole=True))
    row = torch.zeros(TOKENS, dtype=wide)
    optional = (row, row, row) if has_all else (None, None, None)
    backend.write(block, RowNumbers(row, row, row, *optional), RowGradient(row, row, *optional))


def main(out: str) -> None:
    results: dict[str, list[str] | str] = {}
    for dtype in DTYPES:
        for has_all in (False, True):
            compiled: list[str] = []
            triton.runtime.driver.set_active(Driver(TARGETS[os.environ["DEVICE"]], compiled))
            for kernel in (kernels._read, kernels._write):
                kernel.device_caches.clear()  # of what another case compiled
            try:
                launch(dtype, has_all)
            except Exception as error:  # the compiler's own, of many kinds
                results[f"{dtype}, all branches: {has_all}"] = f"{type(error).__name__}: {error}"
            else:
                results[f"{dtype}, all branches: {has_all}"] = compiled
    Path(out).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
