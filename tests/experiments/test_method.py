"""The method of a comparison, lengths by step, and the check of a study: values from results that never were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.cli.tools import run
from tests.experiments.made import PLAN, ROWS, results
from tests.experiments.test_sections import BY_LENGTH, spoiled, table

from sftloss.errors import DataError
from sftloss.experiments import STUDIES, Experiment, check_study, scratch_recipe
from sftloss.experiments import check as checks
from sftloss.experiments.check import reduced
from sftloss.experiments.metrics import Ratio
from sftloss.experiments.pages.describe import experiment_document
from sftloss.experiments.run.material import material, start, traced_rows, tuning_rows
from sftloss.experiments.run.results import Point, RowGroups
from sftloss.experiments.run.train import ArmTrainer
from sftloss.report import from_json, to_json
from sftloss.report.markdown import render_markdown


def method(experiment, given):
    return dict(table(experiment_document(experiment, given), "method").rows)


def with_results(given, **changes):
    return replace(given, by_trial={trial: replace(one, **changes) for trial, one in given.by_trial.items()})


def test_the_method_is_the_recipe_and_the_results():
    recipe = scratch_recipe(optimizer="sgd", weight_decay=0.1, grad_accum=2, warmup=20.0, max_grad_norm=0.0)
    experiment = replace(PLAN, recipe=recipe, samples=3, temperature=0.7, noise=0.25)
    given = with_results(results(experiment=experiment), train_rows=2000, train_prompts=1500, parameters=7, steps=125)
    shown = method(experiment, given)
    assert shown["optimizer"] == "sgd, weight decay 0.1, gradients not clipped"
    assert shown["schedule"] == "cosine, warmup over 20 steps"
    assert shown["batch"] == "32 rows a step in 2 micro-batches, padded, not packed"
    assert "2,000 rows with 1,500 different prompts" in shown["data"] and "25 % of the answers wrong" in shown["data"]
    assert f"{ROWS} rows with {ROWS} different prompts" in shown["held-out data"]
    assert shown["decoding"].startswith("3 answers to each prompt sampled at temperature 0.7")
    assert "125 steps a training, 2 passes over the rows" in shown["budget"] and "6 trainings" in shown["budget"]
    assert shown["learning rate"].startswith("0.003 for all arms, not tuned") and shown["tuned"] == "nothing"


def test_the_rate_of_each_arm_is_shown_with_the_losses_that_chose_it():
    experiment = replace(PLAN, learning_rates=(1e-3, 1e-2))
    given = with_results(results(experiment=experiment), learning_rate=1e-3, tuning={"0.001": 1.5, "0.01": 2.5})
    document = experiment_document(experiment, given)
    assert table(document, "learning-rates").rows[1] == ("dft", "0.001", 1.5, 2.5)
    assert "chosen for each arm among 0.001 and 0.01" in method(experiment, given)["learning rate"]
    assert method(experiment, given)["learning rate"].endswith(": 0.001 for every arm")
    assert "to choose learning rates" in method(experiment, given)["budget"]
    page = render_markdown(document)
    assert "Arms with the same seed start from the same weights" in page  # notes of a section stay


def test_a_verdict_counts_the_prompts_that_have_a_value():
    """Half of the rows have a checker, and two rows share each prompt."""
    there = np.arange(ROWS) < ROWS // 2

    def half(by):
        return lambda m: Ratio(np.where(there, m["exact_match"].top + by, 0.0), there.astype(float))

    given = spoiled(spoiled(results(), 0, exact_match=half(0.0)), 1, exact_match=half(0.4))
    pairs = RowGroups(given.first.groups.task, given.first.groups.language, tuple(np.arange(ROWS) // 2))
    document = experiment_document(PLAN, with_results(given, groups=pairs))
    prompts = {row[0]: row[6] for row in table(document, "comparisons").rows}
    assert prompts["right answers"] == ROWS // 4 and prompts["held-out loss per token"] == ROWS // 2
    assert any(f"; {ROWS // 4} prompts, 3 seeds)" in finding.sentence for finding in document.findings)


def traced(by_arm):
    """Results with lengths at steps 5 and 10: sampled answers of the second arm as long as `by_arm` says."""
    given = results(experiment=BY_LENGTH)
    groups = {"seen": RowGroups(("some",) * 8, ("",) * 8, tuple(range(8)))}
    base = 6.0 + np.cos(np.arange(8))

    def of(trial, one):
        points = [Point(step, 1.0, {}, {
            f"seen {way}": list(base * (factor if trial.arm == given.arms[1] else 1.0) + 0.01 * trial.seed)
            for way in ("sampled", "greedy")}) for step, factor in zip((5, 10), by_arm, strict=True)]  # fmt: skip
        return replace(one, curve=(Point(0, 5.0), *points), traced=groups, forecasts={"some": one.forecasts["add"]})

    return replace(given, by_trial={trial: of(trial, one) for trial, one in given.by_trial.items()})


def test_lengths_by_step_are_set_against_the_first_arm():
    document = experiment_document(BY_LENGTH, traced((0.5, 0.8)))
    first, last = table(document, "length-steps-some").rows
    assert first[:4] == (5, "example mean", 1.0, 1.0) and first[4] == pytest.approx(0.5, abs=1e-3)
    assert last[4] == pytest.approx(0.8, abs=1e-3) and last[10:] == (None,) * 6  # no unseen prompts
    assert "8 seen prompts" in table(document, "length-steps-some").title
    (section,) = [s for s in document.sections if s.id == "length-steps"]
    assert "Sampled answers to seen prompts 0.50×" in section.lead


def checked(monkeypatch, recorded, repeated, experiment=BY_LENGTH):
    record = experiment_document(experiment, recorded)
    monkeypatch.setattr(checks, "compare", lambda *_, **__: type("R", (), {"document": experiment_document(
        experiment, repeated)}))  # fmt: skip
    return check_study("length", record)


def moved(by):
    return spoiled(results(experiment=BY_LENGTH), 1, length_ratio=lambda m: Ratio(
        (1 + by) * m["length_ratio"].top + 0.01 * np.cos(np.arange(ROWS)), m["length_ratio"].bottom))  # fmt: skip


def test_a_direction_is_compared_with_the_record(monkeypatch):
    (same,) = checked(monkeypatch, moved(-0.3), moved(-0.1))
    (other,) = checked(monkeypatch, moved(-0.3), moved(0.1))
    assert same.agrees and str(same).startswith("same direction: answer length")
    assert not other.agrees and str(other).startswith("OPPOSITE DIRECTION: answer length")
    by_step = checked(monkeypatch, traced((0.5, 0.8)), traced((0.9, 1.1)))
    assert [one.agrees for one in by_step] == [True, True, False, False]


def test_a_record_without_a_difference_has_nothing_to_check(tmp_path):
    record = tmp_path / "length.json"
    record.write_text(to_json(experiment_document(BY_LENGTH, results(experiment=BY_LENGTH))))
    result = run("study", "length", "--check", record)
    assert result.exit_code == 0 and "no direction to compare" in result.stdout
    with pytest.raises(DataError, match="about nobody, which is no arm"):
        checks.check_study("length", with_other_arm(record.read_text()))


def with_other_arm(text):
    """The record with a difference of an arm that the study does not have."""
    return from_json(text.replace('"no difference shown"', '"different"').replace('"example mean"', '"nobody"'))


def test_a_check_is_smaller_and_of_other_seeds():
    record = experiment_document(BY_LENGTH, results(experiment=BY_LENGTH))
    plan = STUDIES["multitask"].experiment
    small = reduced(plan, ["rlw"], record)
    assert small.tasks == ("static", "rlw") and not {*small.seeds} & {*plan.seeds} and len(small.seeds) == 3
    assert small.recipe.max_steps == plan.recipe.max_steps // 2
    steps = STUDIES["length-by-step"].experiment
    assert reduced(steps, [], record).recipe == steps.recipe


def test_a_disagreeing_check_has_exit_code_1(monkeypatch, tmp_path):
    record = tmp_path / "length.json"
    record.write_text(to_json(experiment_document(BY_LENGTH, moved(-0.3))))
    for by, code in ((-0.1, 0), (0.1, 1)):
        document = experiment_document(BY_LENGTH, moved(by))
        monkeypatch.setattr(checks, "compare", lambda *_, d=document, **__: type("R", (), {"document": d}))
        result = run("study", "length", "--check", record)
        assert result.exit_code == code and ("OPPOSITE" in result.stdout) == bool(code)


def test_a_learning_rate_is_chosen_on_rows_that_judge_no_arm(tmp_path, monkeypatch):
    """A rate of 1e-6 learns nothing; rates are tried once for all seeds."""
    experiment = Experiment(
        scratch_recipe(max_examples=32, max_steps=3, batch_size=8), losses=("cross_entropy", "dft"), seeds=(0,),
        width=16, heads=2, layers=1, eval_rows=12, learning_rates=(1e-6, 1e-2),
    )  # fmt: skip
    trainer, arm = ArmTrainer(experiment, tmp_path, ""), experiment.arms()[0]
    losses = trainer.tuning(arm)
    assert losses["0.01"] < losses["1e-06"]
    monkeypatch.setattr(ArmTrainer, "_tuning_loss", None)
    assert ArmTrainer(experiment, tmp_path, "").tuning(arm) == losses
    rows = material(experiment, start(experiment, 0)[1])
    _, judges = tuning_rows(experiment, start(experiment, 0)[1], rows.train)
    assert not {e.prompts for e in judges.examples if e.task == "add"} & {
        e.prompts for part in (rows.train, rows.held_out) for e in part.examples if e.task == "add"
    }


def test_traced_rows_are_some_of_each_task_and_unseen_ones_are_new():
    experiment = replace(PLAN, recipe=scratch_recipe(max_examples=400), eval_rows=60)
    rows = material(experiment, start(experiment, 0)[1])
    parts = traced_rows(rows, 3)
    seen = [example.task for example in parts["seen"].examples]
    assert all(seen.count(task) == 3 for task in {*seen})
    trained = {example.prompts for example in rows.train.examples}
    assert not any(example.prompts in trained for example in parts["unseen"].examples)
    assert traced_rows(rows, 0) == {}


def test_rows_without_a_task_are_one_table():
    given = traced((0.5, 0.8))
    groups = {"seen": RowGroups(("",) * 8, ("",) * 8, tuple(range(8)))}
    document = experiment_document(BY_LENGTH, with_results(given, traced=groups))
    assert table(document, "length-steps-").rows[0][4] == pytest.approx(0.5, abs=1e-3)
