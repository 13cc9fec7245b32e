"""`sftloss analyze --signal` measures the gradients of a subset, and goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sftloss import analyze, per_example_gradients
from sftloss.analysis import AnalysisOptions
from sftloss.data import Examples, batches
from sftloss.data.demo import demo_model, demo_tokenizer
from sftloss.errors import ConfigError
from sftloss.pipeline import Run, check
from sftloss.pipeline import gradients as module
from sftloss.training import Loss, inputs_of

ROWS = [
    {"prompt": f"copy: {word}", "completion": word, "task": "ab"[i % 2], "language": ["en", "de"][i % 3 == 0]}
    for i, word in enumerate(("fig", "plum", "red fox", "blue bird", "hen pig duck", "pear tree", "a", "b c d", "owl"))
]
OPTIONS = {"replicates": 20, "signal_examples": 6}
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


def test_norms_are_those_of_the_examples(tmp_path: Path) -> None:
    model, tokenizer = demo_model(), demo_tokenizer()
    question = AnalysisOptions(signal="grad", **OPTIONS)
    report = analyze(model, tokenizer, ROWS, question=question, run=Run(output=tmp_path / "out"))
    influential = report.frames["gradient-influential"]
    assert influential.height == 6
    (batch,) = batches(list(Examples(ROWS, tokenizer)), pad_id=0, batch_size=len(ROWS))
    norms = per_example_gradients(model, inputs_of(batch), Loss()).norms
    places = [str(example.origin).rsplit(" ", 1)[-1] for example in batch.examples]
    by_place = dict(zip(places, norms.tolist(), strict=True))
    mine = [by_place[origin.rsplit(" ", 1)[-1]] for origin in influential["origin"]]
    assert influential["norm"].to_list() == pytest.approx([one / sum(mine) for one in mine], rel=1e-5)
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_a_stopped_run_goes_on_with_the_norms_it_has(tmp_path: Path, monkeypatch: Any) -> None:
    model, tokenizer = demo_model(), demo_tokenizer()
    question = AnalysisOptions(signal="grad", **OPTIONS)
    first = analyze(model, tokenizer, ROWS, question=question, run=Run(output=tmp_path))
    path = tmp_path / "table" / module.NORMS
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:4]) + '\n{"exam', encoding="utf-8")
    wanted: list[int] = []
    before = module.GradientSource._batches
    monkeypatch.setattr(
        module.GradientSource, "_batches", lambda self, chosen: (wanted.extend(chosen), before(self, chosen))[1]
    )
    run = Run(output=tmp_path, resume=True)
    again = analyze(model, tokenizer, ROWS, question=question, run=run)
    assert len(wanted) == 3
    assert again.frames["gradient-numbers"].equals(first.frames["gradient-numbers"])


def test_a_cut_off_line_spoils_no_other(tmp_path: Path) -> None:
    path, head = tmp_path / module.NORMS, {"objective": "cross_entropy"}
    assert module._read_norms(path, head) == ({}, "")
    lines = [json.dumps({"example": n, "norm": 1.0, "coverage": "all"}) for n in range(3)]
    path.write_text("\n".join([json.dumps(head), *lines[:2], lines[2][:8]]), encoding="utf-8")
    assert module._read_norms(path, head) == ({0: 1.0, 1: 1.0}, "all")
    with path.open("a", encoding="utf-8") as file:
        file.write(lines[2] + "\n")
    assert module._read_norms(path, head) == ({0: 1.0, 1: 1.0, 2: 1.0}, "all")
    assert module._read_norms(path, {"objective": "dft"}) == ({}, "")


@pytest.mark.parametrize("method", [pytest.param("forward mode", marks=pytest.mark.slow), "finite difference"])
def test_shares_add_up_to_one_and_groups_are_compared(method: str, monkeypatch: Any) -> None:
    if method == "finite difference":
        monkeypatch.setattr("sftloss.training.gradients.shares._forward_mode", refused)
    question = AnalysisOptions(signal="additive", top=6, role_weights=(("response", 1.0), ("prompt", 0.1)), **OPTIONS)
    report = analyze(demo_model(), demo_tokenizer(), ROWS, question=question)
    assert report.frames["gradient-influential"]["share"].sum() == pytest.approx(1)
    cosines = report.frames["gradient-cosines-task"]
    assert cosines["group"].to_list() == ["a", "b"] and cosines["c0"][0] == pytest.approx(1)
    section = next(one for one in report.document.sections if one.id == "gradient")
    assert method in section.notes[1] and "gradient noise scale" in section.lead


def refused(*arguments: Any) -> torch.Tensor:
    raise NotImplementedError


@pytest.mark.parametrize("rank", [0, 1])
def test_several_ranks_are_refused_on_each_of_them(rank: int) -> None:
    """Before they meet: a rank that goes on would wait for one that has left."""
    run, question = Run(output="out", shard=(rank, 2)), AnalysisOptions(signal="grad")
    with pytest.raises(ConfigError, match="measured by one process"):
        check([], losses=["cross_entropy"], question=question, run=run)
