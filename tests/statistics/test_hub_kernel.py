"""The folder hub-kernel: imported as Hugging Face's `kernels` does it, under another name and from outside the path."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.paths import ROOT

pytest.importorskip("triton", reason="the kernels need Triton, which is built for Linux on x86-64")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FOLDER = ROOT / "hub-kernel" / "torch-ext" / "sftloss_rows"


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    name = "sftloss_rows_0af3"  # `kernels` adds a digest, so that two versions can be loaded
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys.modules[f"{name}.kernels"], "_BLOCK", 8)
    yield module
    sys.modules.pop(f"{name}.kernels")


def test_its_kernels_are_those_of_the_package() -> None:
    written = runpy.run_path(str(ROOT / "scripts" / "make_hub_kernel.py"))["kernels"]()
    assert (FOLDER / "kernels.py").read_text(encoding="utf-8") == written, "run: python scripts/make_hub_kernel.py"


def test_loss_and_gradient_are_those_of_torch(rows: Any) -> None:
    torch.manual_seed(0)
    whole = (3 * torch.randn(5, 40, device=DEVICE)).double()
    logits, targets = whole[:, :17], torch.tensor([0, 16, 8, 3, 7], device=DEVICE)  # rows are spaced
    upstream = torch.randn(5, device=DEVICE, dtype=torch.float64)
    leaf = logits.clone().requires_grad_()
    expected = F.cross_entropy(leaf, targets, reduction="none")
    expected.backward(upstream)
    loss, state = rows.cross_entropy(logits, targets)
    torch.testing.assert_close(loss, expected.detach())
    beside = whole[:, 17:].clone()
    assert rows.cross_entropy_backward_(logits, targets, state, upstream) is logits
    torch.testing.assert_close(logits, leaf.grad)
    assert torch.equal(whole[:, 17:], beside)


def test_a_column_of_targets_is_refused(rows: Any) -> None:
    with pytest.raises(ValueError, match="targets .5, 1. one a row"):
        rows.cross_entropy(torch.zeros(5, 3), torch.zeros(5, 1, dtype=torch.long))
