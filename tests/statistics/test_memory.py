"""Memory is a promise: the logits are never whole. Counted in a process of its own."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import sys, torch
from sftloss.loss import weighted_loss
from sftloss.statistics import Head, Plan
torch.set_num_threads(1)

def step(tokens, vocab, is_plain, mode):
    hidden, weight = torch.ones(tokens, 16, requires_grad=True), torch.ones(vocab, 16, requires_grad=True)
    targets = torch.zeros(tokens, dtype=torch.int64)
    if is_plain:
        loss = torch.nn.functional.cross_entropy(hidden @ weight.t(), targets)
    else:
        loss = weighted_loss(hidden, Head(weight), targets, torch.ones(tokens), plan=Plan(mode))[0]
    loss.backward()

def resident(field):
    # not getrusage: its peak is inherited from the process that started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field + ":"))

mode = sys.argv[1]
step(4, 8, mode == "plain", mode)
before = resident("VmRSS")
step(3000, 32000, mode == "plain", mode)
print(resident("VmHWM") - before)
"""


@functools.cache
def peak_kib(mode: str) -> int:
    out = subprocess.run([sys.executable, "-c", _SCRIPT, mode], capture_output=True, text=True, check=True)
    return int(out.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, on Linux")
@pytest.mark.parametrize("mode", ["one_pass", "two_pass"])
def test_a_step_takes_at_most_a_tenth_of_the_plain_formulas_memory(mode: str) -> None:
    """3000 x 32000 float32 logits are 366 MiB, and the plain formula holds them at least twice."""
    plain = peak_kib("plain")
    assert plain > 700 * 1024
    assert peak_kib(mode) <= plain / 10
