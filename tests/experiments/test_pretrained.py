"""Every study of a pretrained model runs: on the demo model, with two steps, from its rows to its page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")
from sftloss.data.demo import demo_model, demo_tokenizer
from sftloss.experiments import pretrained_study, run_study
from sftloss.experiments.pretrained import PRETRAINED
from sftloss.pipeline import Run, store_reference
from sftloss.reference import Kept

SUMS = [(a, b) for a in range(12) for b in range(5)]
ROWS: list[dict[str, Any]] = [
    {"prompt": f"{a} plus {b}", "response": str(a + b), "task": "en" if a % 2 else "zh"} for a, b in SUMS
]
MARKED = [{**row, **({"is_negative": True, "weight": 0.1} if i % 4 == 0 else {})} for i, row in enumerate(ROWS)]
OTHER = [{"prompt": f"say {i}", "response": f"I say {i}."} for i in range(8)]
HELD_OUT = [{"prompt": f"{a} and {a}", "response": str(2 * a)} for a in range(20, 30)]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    named = {"rows": ROWS, "marked": MARKED, "other": OTHER, "held_out": HELD_OUT}
    for name, rows in named.items():
        (tmp_path / name).with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {name: str(tmp_path / f"{name}.jsonl") for name in named}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.slow
@pytest.mark.parametrize("name", PRETRAINED)
def test_a_study_of_a_pretrained_model_runs_on_the_demo_model(name: str, files: dict[str, str], tmp_path: Path) -> None:
    given: dict[str, Any] = {}
    if name == "forgetting":
        given["reference"] = (str(tmp_path / "reference"),)
        run = Run(output=given["reference"][0], max_length=PRETRAINED[name].experiment.recipe.max_length)
        store_reference(demo_model(), demo_tokenizer(), files["rows"], kept=Kept(top_k=5), run=run)
    if name == "rewards":
        given["eval_data"] = files["held_out"]
    study = pretrained_study(name, files["marked" if name == "rewards" else "rows"], files["other"], **given)
    plan = study.experiment
    small = replace(
        plan,
        losses=tuple(loss.replace("file_sep", "im_end") for loss in plan.losses),
        recipe=replace(plan.recipe, model="demo", max_steps=2),
        seeds=(0, 1),
        eval_rows=4,
        forget_rows=2,
        max_new_tokens=2,
        points=1,
        length_rows=min(2, plan.length_rows),
    )
    run_study(replace(study, experiment=small), output=tmp_path / "out")
    page = (tmp_path / "out" / f"smollm2-{name}.md").read_text()
    assert study.question in page and "**Answer.**" in page
    assert "I say 1." not in (tmp_path / "out" / f"smollm2-{name}.json").read_text()
