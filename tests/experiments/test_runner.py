"""Arms on disk: equal bytes however they were run, nothing trained twice, nothing lost to a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.experiments.made import with_recipe

from sftloss.errors import ConfigError, DataError
from sftloss.experiments import Execution, Experiment, compare, scratch_recipe
from sftloss.experiments.run.runner import run_arms
from sftloss.finetune import Lora, Recipe

TINY = Experiment(
    scratch_recipe(max_examples=48, max_steps=4, batch_size=8),
    losses=("cross_entropy", "focal(gamma=2)"),
    seeds=(0,),
    width=16,
    heads=2,
    layers=1,
    eval_rows=12,
    points=2,
    samples=2,
    max_new_tokens=6,
)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The comparison as it runs undisturbed."""
    folder = tmp_path_factory.mktemp("straight")
    compare(TINY, output=folder)
    return folder


def test_a_finished_arm_is_never_trained_again(straight, monkeypatch):
    monkeypatch.setattr("sftloss.experiments.run.train.ArmTrainer.train", None)
    before = files(straight)
    compare(TINY, output=straight)
    assert files(straight) == before


def test_a_lost_arm_is_trained_to_the_same_bytes(straight, tmp_path):
    before = files(straight)
    lost = straight / "arms" / "focal-gamma-2-token-mean-seed0" / "result.json"
    lost.unlink()
    told = []
    compare(TINY, output=straight, execution=Execution(progress=lambda *given: told.append(given)))
    assert files(straight) == before
    assert told == [(2, 2, "focal-gamma-2-token-mean-seed0")]


def test_arms_start_equal_and_see_equal_tokens(straight):
    results = run_arms(TINY, straight, Execution())
    first, second = (results.of(arm)[0] for arm in results.arms)
    assert first.curve[0] == second.curve[0] and first.curve[-1] != second.curve[-1]
    assert first.tokens == second.tokens > 0 and first.steps == second.steps == 4
    assert [point.step for point in first.curve] == [0, 2, 4]


def test_the_page_and_its_data_are_there(straight):
    document = json.loads((straight / "report.json").read_text())
    assert document["title"].startswith("Comparison") and document["findings"][0]["id"] == "CMP001"
    assert (straight / "report.html").read_text().startswith("<!")


def test_a_second_data_file_is_forgotten_or_not(tmp_path):
    rows = tmp_path / "other.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"say {i}", "completion": f"word {i}"}) + "\n" for i in range(4)))
    experiment = replace(with_recipe(TINY, max_steps=2), forget_data=str(rows), losses=("cross_entropy", "dft"))
    report = compare(experiment, output=tmp_path / "out")
    (section,) = [s for s in report.document.sections if s.id == "forgetting"]
    keys = [column.key for column in section.tables[0].columns]
    assert section.tables[0].rows[0][keys.index("forget_kl")] > 0


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's
def test_a_pretrained_model_is_compared_with_all_that_train_takes(tmp_path):
    """Adapters, another optimizer, packing and a held-out share of the data: the base model is left as it was."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"say {i}", "completion": f"word {i}"}) + "\n" for i in range(40)))
    recipe = Recipe(
        model="demo", data=str(rows), eval_share=0.25, lora=Lora(2), optimizer="sgd", packing=True, max_length=64,
        gradient_checkpointing=True, max_steps=2, batch_size=2,
    )  # fmt: skip
    pair = Experiment(
        recipe,
        losses=("cross_entropy", "dft"),
        seeds=(0,),
        forget_data=str(rows),
        points=1,
        samples=0,
        max_new_tokens=4,
    )
    report = compare(pair, output=tmp_path / "out")
    facts = dict(report.document.facts)
    assert facts["model"] == "sftloss demo model" and facts["held-out rows"] == "10"
    assert "forgetting" in [section.id for section in report.document.sections]
    with pytest.raises(ConfigError, match="optimizer differ"):
        compare(replace(pair, recipe=replace(recipe, optimizer="adamw_torch")), output=tmp_path / "out")


def test_a_failing_arm_says_why(tmp_path):
    with pytest.raises(DataError):
        compare(with_recipe(TINY, max_length=2), output=tmp_path)


def test_a_folder_of_another_plan_is_refused(straight):
    with pytest.raises(ConfigError, match="max_steps differ"):
        compare(with_recipe(TINY, max_steps=5), output=straight)


@pytest.mark.slow  # two processes import transformers
def test_workers_give_the_bytes_of_one_process(straight, tmp_path):
    compare(TINY, output=tmp_path, execution=Execution(workers=2))
    assert files(tmp_path) == files(straight)


@pytest.mark.slow  # a process imports transformers, twice
@pytest.mark.parametrize("save_every", [None, 1])
def test_a_killed_comparison_goes_on_to_the_same_bytes(straight, tmp_path, save_every):
    """kill -9 in the middle of the second arm."""
    program = (
        "from tests.experiments.test_runner import *\n"
        f"compare(TINY, output={str(tmp_path)!r}, execution=Execution(save_every={save_every}))"
    )
    first = tmp_path / "arms" / "cross_entropy-token-mean-seed0" / "result.json"
    second = tmp_path / "arms" / "focal-gamma-2-token-mean-seed0"
    root = Path(__file__).parent.parent.parent
    process = subprocess.Popen([sys.executable, "-c", program], cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        until = time.monotonic() + 200
        # its curve is written at the start of training: from then on the arm is in the middle
        while not (first.exists() and list(second.glob("checkpoints/curve.json"))):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (second / "result.json").exists()
    compare(TINY, output=tmp_path, execution=Execution(save_every=save_every))
    assert files(tmp_path) == files(straight)


STAGES = {
    "training": ("run.train", "held_out_loss"),
    "evaluation": ("run.train", "evaluate_tokens"),
    "generation": ("metrics.generation", "_output"),
    "writing": ("run.train", "save"),
}
CUT_OFF = """
import os, signal
from importlib import import_module
from tests.experiments.test_runner import *
module, name = import_module("sftloss.experiments.{module}"), "{name}"
whole, calls = getattr(module, name), []
def cut_off(*given, **options):
    calls.append(1)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*given, **options)
setattr(module, name, cut_off)
compare(TINY, output={folder!r})
"""


@pytest.mark.slow  # a process imports transformers
@pytest.mark.parametrize("stage", STAGES)
def test_an_arm_killed_in_any_stage_goes_on_to_the_same_bytes(straight, tmp_path, stage):
    """kill -9 from inside the stage of the second arm; the first is not trained again."""
    module, name = STAGES[stage]
    # of one arm: points of the curve at steps 0, 2, 4; a table for each and for the end; 36 outputs; one result
    call = {"training": 5, "evaluation": 8, "generation": 36 + 18, "writing": 2}[stage]
    program = CUT_OFF.format(module=module, name=name, call=call, folder=str(tmp_path))
    root = Path(__file__).parent.parent.parent
    ended = subprocess.run([sys.executable, "-c", program], cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"})
    first, second = (tmp_path / "arms" / f"{one}-token-mean-seed0" for one in ("cross_entropy", "focal-gamma-2"))
    assert ended.returncode == -signal.SIGKILL and not (second / "result.json").exists()
    written = (first / "result.json").stat().st_mtime_ns
    told = []
    compare(TINY, output=tmp_path, execution=Execution(progress=lambda *given: told.append(given[2])))
    assert files(tmp_path) == files(straight)
    assert told == [second.name] and (first / "result.json").stat().st_mtime_ns == written


@pytest.mark.slow  # two processes import transformers
def test_arms_on_two_devices_give_the_bytes_of_one_process(straight, tmp_path):
    compare(TINY, output=tmp_path, execution=Execution(devices=("cpu", "cpu")))
    assert files(tmp_path) == files(straight)


@pytest.mark.slow  # a process imports transformers
def test_a_worker_that_fails_says_why(tmp_path):
    with pytest.raises(DataError, match="MASK007 truncated-away: 48 refused"):
        compare(with_recipe(TINY, max_length=2), output=tmp_path, execution=Execution(workers=2))
