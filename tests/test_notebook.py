"""The notebook runs from its first cell to its last, without the outputs of an earlier run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.paths import ROOT

pytest.importorskip("accelerate")
pytest.importorskip("peft")

NOTEBOOK = json.loads((ROOT / "examples" / "first_report.ipynb").read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT reads it
def test_the_notebook_goes_from_a_data_file_to_a_trained_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, cell in enumerate(NOTEBOOK["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "rows can be trained on" in printed and "| loss | `focal(gamma=2)` |" in printed
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").is_file()
