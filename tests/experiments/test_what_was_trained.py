"""Tokens as the training passes counted them, and the lengths that the weights of those passes foretell."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.experiments.made import PLAN, results, with_recipe
from tests.experiments.test_runner import TINY
from transformers import TrainerCallback

from sftloss.analysis import LengthOptions
from sftloss.data import ROLES
from sftloss.experiments import Experiment, compare
from sftloss.experiments.experiment import Trial
from sftloss.experiments.pages.describe import experiment_document
from sftloss.experiments.run.material import forecasts, material, start
from sftloss.experiments.run.train import ArmTrainer
from sftloss.experiments.studies import DEMO, STUDIES
from sftloss.finetune import fine_tune
from sftloss.finetune.rows import Collator
from sftloss.pipeline import lengths
from sftloss.training import attachment_of
from sftloss.weights import EXAMPLE_MEAN

PROMPTS = replace(TINY, losses=("cross_entropy",), prompt_weights=(0.0, 1.0))


def told(folder: Path) -> dict[float, dict[str, Any]]:
    """Each arm's result by its prompt weight."""
    found = [json.loads(file.read_text()) for file in folder.glob("arms/*/result.json")]
    return {one["trial"]["arm"]["prompt_weight"]: one for one in found}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[float, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    compare(PROMPTS, output=folder)
    return told(folder)


def test_arms_of_two_prompt_weights_see_equal_tokens_and_train_unequal_ones(whole: dict[float, dict[str, Any]]) -> None:
    answers, both = whole[0.0], whole[1.0]
    assert answers["tokens"] == both["tokens"] and answers["trained_tokens"] < both["trained_tokens"] / 1.5
    # of each row that was drawn, all but the first token, which nothing predicts
    assert both["tokens"] - both["trained_tokens"] == 4 * 8


def test_tokens_are_counted_and_not_foretold(
    whole: dict[float, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An arm whose batches lose a row on the way to the model has seen fewer tokens, and the report says so."""
    collate, sizes = Collator.__call__, []

    def cut_off(self: Collator, rows: Any) -> dict[str, Any]:
        kept = rows[:-1] if len(rows) == 8 else rows
        sizes.extend(len(example.input_ids) for row in kept for _, example in row)
        return collate(self, kept)

    compare(PROMPTS, output=tmp_path)
    lost = next(tmp_path.glob("arms/*prompt-weight-1-*/result.json"))
    lost.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(Collator, "__call__", cut_off)
        patched.setattr("sftloss.experiments.run.train.forecasts", lambda *given: {})
        report = compare(PROMPTS, output=tmp_path)
    found = told(tmp_path)
    # the loader made a fifth batch, which the four steps did not take
    assert found[1.0]["tokens"] == sum(sizes[: 4 * 7]) < found[0.0]["tokens"] == whole[0.0]["tokens"]
    assert [finding.severity for finding in report.document.findings if finding.id == "CMP002"] == ["error"]


def test_the_report_says_how_many_tokens_were_seen_and_trained() -> None:
    def line(found: Any) -> str:
        return dict(experiment_document(PLAN, found).facts)["each training"]

    given = results()
    assert line(given) == "10 steps, 500 tokens seen, 300 of them trained"
    last = list(given.by_trial)[-1]
    given.by_trial[last] = replace(given.by_trial[last], trained_tokens=1200)  # type: ignore[index]
    assert line(given) == "10 steps, 500 tokens seen, 300 to 1,200 of them trained"


class Watched(TrainerCallback):
    """The weight u that a training pass gave the answer of each row."""

    def __init__(self) -> None:
        self.weight: dict[int, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        attachment_of(given["model"]).observers.append(self.see)  # type: ignore[union-attr]

    def see(self, seen: Any) -> None:
        is_answer = (seen.tokens.roles == ROLES.index("response")) & (seen.tokens.weights != 0)
        rows = seen.batch["example_ids"].reshape(-1)[is_answer].tolist()
        self.weight.update(zip(rows, seen.tokens.weights[is_answer].tolist(), strict=True))


@pytest.mark.parametrize("prompt", [0.0, 1.0])
def test_lengths_are_foretold_from_the_weights_of_training(prompt: float, tmp_path: Path) -> None:
    """Lengths of answers weighted as a real pass of the Trainer weighted them, prompt by prompt."""
    experiment = replace(
        with_recipe(PROMPTS, max_examples=120, batch_size=120, max_steps=1),
        normalizations=("example-mean",),
        data_tasks=("some", "add"),
    )
    (arm,) = (arm for arm in experiment.arms() if arm.prompt_weight == prompt)
    model, tokenizer = start(experiment, 0)
    rows, watch = material(experiment, tokenizer).train, Watched()
    recipe = ArmTrainer(experiment, tmp_path, "").recipe(Trial(arm, 0))
    fine_tune(recipe, model=model, tokenizer=tokenizer, rows=rows.examples, callbacks=(watch,))
    of_prompt = defaultdict(list)
    for i, example in enumerate(rows.examples):
        if example.task == "some":
            of_prompt[example.prompts].append((watch.weight[i], int((example.weights > 0).sum())))
    means = [len(all_) * sum(w * t for w, t in all_) / sum(w for w, _ in all_) for all_ in of_prompt.values()]
    expected = sum(means) / sum(map(len, of_prompt.values()))
    assert forecasts(rows, recipe)["some"].within_prompt == pytest.approx(expected, rel=1e-12)


def test_compare_predicts_the_lengths_that_lengths_predicts(tmp_path: Path) -> None:
    """Rows of two turns, each answer counted by itself, under the same T."""
    random, rows = np.random.default_rng(0), []
    for i in range(80):
        turns = [f"say {i % 40}", "red " * random.integers(1, 9), "and now", "blue " * random.integers(1, 30)]
        roles = ("user", "assistant") * 2
        rows.append({"messages": [{"role": r, "content": t.strip()} for r, t in zip(roles, turns, strict=True)]})
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pair = with_recipe(replace(PLAN, losses=()), data=str(file), eval_data=str(file), normalization="example-mean")
    recipe, tokenizer = pair.recipe, start(pair, 0)[1]
    ours = forecasts(material(pair, tokenizer).train, replace(recipe, eval_data=None))[""]
    report = lengths(rows, tokenizer, question=LengthOptions((EXAMPLE_MEAN,)))
    (table,) = [t for s in report.document.sections for t in s.tables if t.id == "length-forecast"]
    theirs = {row[0]: dict(zip((c.key for c in table.columns), row, strict=True)) for row in table.rows}
    assert ours.data == pytest.approx(theirs["token mean"]["bound"], rel=1e-12)
    mean = theirs["example mean"]
    assert (ours.whole, ours.within_prompt) == pytest.approx((mean["bound"], mean["given_prompt"]), rel=1e-12)
    assert ours.within_prompt < ours.data - 0.05


@pytest.mark.slow
def test_a_trained_prompt_takes_most_of_the_tilt_away(whole: dict[float, dict[str, Any]], tmp_path: Path) -> None:
    experiment = replace(with_recipe(PROMPTS, max_examples=2000), normalizations=("example-mean",), noise=0.0)
    rows = material(experiment, start(experiment, 0)[1]).train
    ratio = {}
    for arm in experiment.arms():
        told = forecasts(rows, ArmTrainer(experiment, tmp_path, "").recipe(Trial(arm, 0)))["some"]
        ratio[arm.prompt_weight] = told.within_prompt / told.data
    assert ratio == pytest.approx({0.0: 0.789, 1.0: 0.941}, abs=1e-3)


OFFLINE = {name: one.experiment for name, one in STUDIES.items() if name != "real_data"} | {"demo": DEMO}


@pytest.mark.parametrize("experiment", OFFLINE.values(), ids=OFFLINE)
def test_a_study_without_a_file_is_of_the_generated_tasks(experiment: Experiment) -> None:
    """Wrong answers are among them where right answers are counted."""
    assert experiment.is_generated and experiment.recipe.eval_data is None
    assert (experiment.noise > 0) == (not experiment.tasks and not experiment.length_rows)
    rows = material(with_recipe(experiment, max_examples=400), start(experiment, 0)[1]).train
    assert sum(record.source == "noise" for record in rows.records) == round(400 * experiment.noise)


def test_rows_of_a_file_have_no_noise() -> None:
    assert with_recipe(PLAN, data="a.jsonl", eval_data="b.jsonl").noise == 0.0 < PLAN.noise


def test_what_was_sampled_says_so(whole: dict[float, dict[str, Any]], tmp_path: Path) -> None:
    assert all(one["is_sampled"] and len(one["lengths"][0]) == 2 for one in whole.values())
    compare(replace(with_recipe(PROMPTS, max_steps=1), samples=0), output=tmp_path)
    assert all(not one["is_sampled"] and len(one["lengths"][0]) == 1 for one in told(tmp_path).values())


def test_the_end_of_answers_has_its_diagram(whole: dict[float, dict[str, Any]]) -> None:
    """Every held-out token is in one bin, and every row ends once."""
    for one in whole.values():
        bins = one["end_reliability"]
        assert sum(count for _, _, count, *_ in bins) == sum(one["metrics"]["token_nll"]["bottom"])
        assert sum(count * came for _, _, count, _, came in bins) == pytest.approx(TINY.eval_rows)
        assert np.all(np.diff([low for low, *_ in bins]) > 0)


def test_results_name_the_source_that_made_them(whole: dict[float, dict[str, Any]], monkeypatch: Any, tmp_path) -> None:
    from sftloss import version
    from sftloss.experiments.run.train import _versions

    assert all(one["versions"] == _versions() for one in whole.values())
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(version, "__file__", str(tmp_path / "__init__.py"))
    before = _versions()["sftloss"]
    (tmp_path / "_loss.py").write_text("1")
    assert before != _versions()["sftloss"] != whole[0.0]["versions"]["sftloss"]
