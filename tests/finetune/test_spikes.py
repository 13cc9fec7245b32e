"""The history names the rows behind each spike, whoever saw it and whatever happened in between."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.finetune.runs import PLANTED, entries, finish, here, history, start, write_planted

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
RUN: dict[str, Any] = {**PLANTED, "grad_accum": 1, "dropout": 0.0, "eval_share": 0.0, "eval_every": None}


@pytest.mark.slow
def test_a_spike_not_yet_in_the_log_is_told_by_the_run_that_goes_on(tmp_path: Path) -> None:
    """It comes in step 28, which is saved; the run is killed before line 30 of the log."""
    data = write_planted(tmp_path / "rows.jsonl")
    told = {**RUN, "data": str(data), "save_every": 14}
    here(tmp_path / "whole", **told)
    finish(start(tmp_path / "killed", **told, kill_at=29), code=-signal.SIGKILL)
    assert not any("spike" in line for line in entries(tmp_path / "killed"))
    here(tmp_path / "killed", **told, resume=True)
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    spikes = {line["step"]: line["spike"] for line in entries(tmp_path / "whole") if "spike" in line}
    assert f"{data}:41 (100 %" in spikes[28]


@pytest.mark.slow
def test_a_spike_on_another_rank_is_in_the_history(tmp_path: Path) -> None:
    """Each rank knows its own rows and names them; the first one writes, also what comes after the last log line."""
    data = write_planted(tmp_path / "rows.jsonl")
    said = finish(start(tmp_path / "run", ranks=2, **{**RUN, "data": str(data), "epochs": 2.0}))
    assert said.count("world 2") == 2
    told = re.findall(r"a spike on rank (\d): .* is at (.*)\.", said)
    assert "1" in {rank for rank, _ in told}
    noted = [line for line in entries(tmp_path / "run") if "spike" in line]
    assert sorted(line["spike"] for line in noted) == sorted(rows for _, rows in told)
    assert max(line["step"] for line in noted) > 30
