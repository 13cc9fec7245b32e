"""Tasks weighted by a strategy within a run: read from the recipe, exact over ranks, resumed bit for bit."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.finetune.runs import entries, finish, here, history, start, weights_digest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from safetensors.torch import load_file

from sftloss.errors import ConfigError, DataError
from sftloss.finetune import Recipe, fine_tune, plan
from sftloss.finetune.task_weights import read_choice

TASKS = "uncertainty(warmup_steps=1)"
ONE_STEP: dict[str, Any] = {"dtype": "float64", "dropout": 0.0, "epochs": 1.0, "optimizer": "sgd", "tasks": TASKS,
                            "learning_rate": 0.05, "eval_share": 0.0, "eval_every": None}  # fmt: skip
RANKED: dict[str, Any] = {**ONE_STEP, "max_examples": 54, "eval_data": "demo"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole")
    here(output, tasks=TASKS)
    return output


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    """Weights, losses and shares of every task are in the log, which is equal too."""
    finish(start(tmp_path, kill_at=7, tasks=TASKS), code=-signal.SIGKILL)
    assert not (tmp_path / "model").exists()
    here(tmp_path, resume=True, tasks=TASKS)
    assert weights_digest(tmp_path) == weights_digest(whole)
    assert history(tmp_path) == history(whole)
    told = entries(whole)[-3]
    assert {f"task_{what}/copy" for what in ("weight", "loss", "token_share", "effective_share")} <= told.keys()
    ours, theirs = (json.loads((path / "train.json").read_text())["tasks"] for path in (tmp_path, whole))
    assert ours == theirs and ours["by_task"]["copy"]["weight"] != 1


def test_another_strategy_ends_elsewhere(whole: Path, tmp_path: Path) -> None:
    """The negative control: the weights are in the result."""
    here(tmp_path, tasks="gls")
    assert weights_digest(tmp_path) != weights_digest(whole)
    here(tmp_path / "plain")
    assert weights_digest(tmp_path / "plain") != weights_digest(whole)


def test_a_finished_run_resumed_says_the_same_of_its_tasks(whole: Path) -> None:
    """Killed between the last step and the end: nothing is trained, and the weights are the checkpoint's."""
    before = json.loads((whole / "train.json").read_text())["tasks"]
    outcome = here(whole, resume=True, tasks=TASKS)
    assert outcome.facts["tasks"] == before


@pytest.mark.parametrize(("given", "told"), [("gls", "tasks='uncertainty(warmup_steps=1)'"), (None, "tasks=")])
def test_a_run_goes_on_with_its_own_weighting_only(whole: Path, given: str | None, told: str) -> None:
    with pytest.raises(ConfigError, match="was trained with") as caught:
        here(whole, resume=True, tasks=given)
    assert told in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_missing_or_truncated_state_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    here(tmp_path, tasks=TASKS, max_steps=3)
    path = tmp_path / "checkpoints" / "checkpoint-3" / "task_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    if damage == "missing":
        path.unlink()
    with pytest.raises(DataError, match="task_weights.safetensors"):
        here(tmp_path, resume=True, tasks=TASKS, max_steps=3)


def furthest(ours: dict[str, torch.Tensor], truth: Any) -> float:
    weights = truth.state_dict()
    return max(float((ours[n].double() - weights[n].double()).norm() / weights[n].double().norm()) for n in ours)


def trained(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model" / "model.safetensors")


@pytest.mark.parametrize(("batch", "accumulation"), [(2, 4), (8, 1)])
@pytest.mark.parametrize("tasks", [TASKS, "gradient_balance"])
def test_micro_batches_do_not_change_the_trained_weights(batch: int, accumulation: int, tasks: str) -> None:
    """In float64; sums in another order."""
    fields = {**ONE_STEP, "tasks": tasks}
    one = here(None, batch_size=4, grad_accum=2, **fields)
    other = here(None, batch_size=batch, grad_accum=accumulation, **fields)
    assert furthest(one.model.state_dict(), other.model) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [TASKS, "gradient_balance"])
def test_two_ranks_end_where_one_process_ends(tmp_path: Path, tasks: str) -> None:
    """54 rows are no multiple of 2 x 4: a rank's last batch is filled up with rows of no task."""
    fields = {**RANKED, "tasks": tasks}
    told = finish(start(tmp_path, ranks=2, batch_size=4, grad_accum=1, **fields))
    assert told.count("world 2") == 2, told
    alone = here(None, batch_size=8, grad_accum=1, **fields)
    assert furthest(trained(tmp_path), alone.model) < 1e-10
    found = json.loads((tmp_path / "train.json").read_text())["tasks"]["by_task"]
    for name, values in alone.facts["tasks"]["by_task"].items():
        assert found[name]["weight"] == pytest.approx(values["weight"], rel=1e-10)
        assert found[name]["num_updates"] == values["num_updates"]


@pytest.mark.slow
def test_two_ranks_that_do_not_hear_of_each_others_losses_end_elsewhere(tmp_path: Path) -> None:
    """The negative control."""
    finish(start(tmp_path, ranks=2, batch_size=4, grad_accum=1, is_deaf=True, **RANKED))
    alone = here(None, batch_size=8, grad_accum=1, **RANKED)
    assert furthest(trained(tmp_path), alone.model) > 1e-6


def test_evaluation_weights_no_task(tmp_path: Path) -> None:
    """Before training the held-out loss and that of each task are plain training's, also of a task it never saw."""
    fields: dict[str, Any] = {"max_steps": 1, "eval_every": None}
    rows = [{"messages": [{"role": "user", "content": "new:"}, {"role": "assistant", "content": "b"}], "task": "new"}]
    eval_file = tmp_path / "held_out.jsonl"
    eval_file.write_text("".join(json.dumps(row) + "\n" for row in rows * 3))
    found = []
    for tasks in (TASKS, None):
        run = here(None, tasks=tasks, **{**fields, "eval_share": 0.0, "eval_data": str(eval_file)})
        found.append({k: v for k, v in run.history[0].items() if "runtime" not in k and "per_second" not in k})
    assert found[0] == found[1] and found[0]["eval_task_new_loss"] > 0.1


def test_conflicts_are_in_the_log_and_in_the_facts() -> None:
    outcome = here(None, tasks="static(conflicts=true)", max_steps=4, grad_accum=1, eval_every=None)
    lines = [line for line in outcome.history if "task_conflict_rate" in line]
    assert lines and all("task_cosine/add, copy" in line and line["task_gradient/copy"] > 0 for line in lines[1:])
    told = outcome.facts["tasks"]["conflicts"]
    assert told["steps"] == 4 and told["pairs"]["add, copy"]["steps"] > 0
    assert here(None, tasks="static", max_steps=1).facts["tasks"]["conflicts"] is None


def test_dry_run_counts_the_tasks() -> None:
    told = plan(Recipe(model="demo", data="demo", max_examples=60, tasks="gls"))
    assert sum(task["examples"] for task in told.tasks.values()) == 60
    assert sum(task["trained_tokens"] for task in told.tasks.values()) == told.counts["trained_tokens"]
    assert not plan(Recipe(model="demo", data="demo", max_examples=60)).tasks


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gsl", "did you mean 'gls'"),
        ("dwa(windw=3)", "dwa has no windw; it has temperature, window"),
        ("dwa(temperature=hot)", "is a word where dwa takes a number"),
        ("dwa(temperature=-1)", "temperature must be finite and > 0"),
        ("dwa(temperature)", "expected name=value"),
        ("dwa(", "expected a strategy"),
        ("gls(base=mean)", "base must be one of task_mean, token_mean"),
        ("static(conflicts=perhaps)", "conflicts is true or false, got 'perhaps'"),
        ("upgrad(layerwise=true)", "give grad_accum=1"),
        ("static(copy=lots)", "the weight of copy is not a number"),
        ("static(copy=1, sing=2)", "the data's tasks are add, copy, list, reverse, yes_no"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        here(None, tasks=text, max_steps=1)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_rows_without_a_task_are_refused_and_the_first_is_named(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "b", "task": "copy"}, {"prompt": "c", "response": "d"}]
    with pytest.raises(ConfigError, match="1 of 2 rows name no task, the first at"):
        fine_tune(Recipe(model="demo", tasks="gls"), rows=rows)


def test_a_choice_is_read_as_written() -> None:
    choice = read_choice("static(qa=2, tool calls=0.5, base=token_mean)")
    assert choice.strategy == "static" and dict(choice.hyper) == {"qa": 2, "tool calls": 0.5}
    assert choice.rules.base == "token_mean"
    assert read_choice("dwa(high=5, window=7)").rules.bounds == (0.1, 5)
    assert read_choice("upgrad(layerwise=true, conflicts=false)").flags == {"layerwise": True, "conflicts": False}


def test_coba_without_evaluations_and_doremi_without_a_reference_are_refused() -> None:
    with pytest.raises(ConfigError, match="give eval_share .or eval_data. and eval_every"):
        here(None, tasks="coba", eval_every=None, max_steps=1)
    with pytest.raises(
        ConfigError, match=r"doremi needs a reference model.* name its folder, doremi\(reference=PATH\)"
    ):
        here(None, tasks="doremi", max_steps=1)


DOREMI = "doremi(reference=demo)"
OWN = ["coba(warmup=2)", *(pytest.param(x, marks=pytest.mark.slow) for x in ("famo", DOREMI))]


@pytest.mark.parametrize("tasks", OWN)
def test_a_strategy_with_a_pass_of_its_own_resumes_to_the_same_bytes(tmp_path: Path, tasks: str) -> None:
    """Step 8 is evaluated and saved, and what was seen there moves the weights of step 9."""
    fields: dict[str, Any] = {"tasks": tasks, "eval_every": 2, "save_every": 4, "keep": None}
    outcome = here(tmp_path, **fields)
    before = weights_digest(tmp_path)
    assert any(task["weight"] != 1 for task in outcome.facts["tasks"]["by_task"].values())
    here(tmp_path, resume_from="checkpoint-8", **fields)
    assert weights_digest(tmp_path) == before


# coba's quotients of slopes, which are small differences of losses, enlarge the rounding of sums in another order
@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "limit"), [("coba(warmup=2)", 1e-7), ("famo", 1e-10), (DOREMI, 1e-10)])
def test_two_ranks_of_a_strategy_with_a_pass_of_its_own_end_where_one_process_ends(
    tmp_path: Path, tasks: str, limit: float
) -> None:
    fields = {**RANKED, "tasks": tasks, "eval_every": 1, "epochs": 2.0}
    finish(start(tmp_path, ranks=2, batch_size=4, grad_accum=1, **fields))
    alone = here(None, batch_size=8, grad_accum=1, **fields)
    assert furthest(trained(tmp_path), alone.model) < limit
    assert any(task["weight"] != 1 for task in alone.facts["tasks"]["by_task"].values())
