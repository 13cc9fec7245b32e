"""Arms, names, and what may share a folder."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.experiments.made import PLAN, arm_result, said, with_recipe

from sftloss.errors import ConfigError, DataError
from sftloss.experiments.comparison import compare
from sftloss.experiments.experiment import Experiment, arm_labels, digest_of, scratch_recipe
from sftloss.experiments.run.results import Answer, claim, claimed, load, read_answers, save, trial_folder
from sftloss.finetune import Lora, Recipe


def test_arms_are_all_combinations_reference_first():
    experiment = Experiment(
        losses=("cross_entropy", "dft"), normalizations=("token-mean", "1"), prompt_weights=(0.0, 0.1)
    )
    arms = experiment.arms()
    assert len(arms) == 8 and len({run.name for run in experiment.trials()}) == 8 * len(experiment.seeds)
    first = arms[0]
    assert (first.loss, first.normalization, first.prompt_weight) == ("cross_entropy", "token mean", 0.0)


def test_labels_say_only_what_differs():
    assert arm_labels(PLAN.arms()) == ("cross_entropy", "dft")
    two = Experiment(losses=("cross_entropy", "dft"), normalizations=("token-mean", "sqrt")).arms()
    assert arm_labels(two)[1] == "cross_entropy · sqrt" and two[1].slug == "cross_entropy-sqrt"
    assert arm_labels(Experiment(normalizations=("token-mean", "0.7")).arms()) == ("token mean", "T^-0.7")


def test_an_arm_is_the_recipe_with_some_fields_replaced():
    """What the experiment does not vary is the recipe's own, whatever that is."""
    roles, lora = {"prompt": 0.3, "response": 1.0}, Lora(4)
    shared = scratch_recipe(loss="dft", normalization="sqrt", roles=roles, lora=lora, optimizer="sgd")
    first, second = (arm.recipe(shared) for arm in Experiment(shared, tasks=("none", "static")).arms())
    assert first == replace(shared, normalization=0.5) and second == replace(first, tasks="static")
    weighted = Experiment(replace(shared, roles=None), prompt_weights=(0.0, 0.1)).arms()[1].recipe(shared)
    assert weighted == replace(first, roles={"prompt": 0.1, "response": 1.0})


def test_a_pretrained_model_has_the_defaults_of_train_and_a_scratch_model_its_own():
    assert (scratch_recipe().learning_rate, Recipe(model="dir").learning_rate) == (3e-3, 2e-5)


def test_an_experiment_is_the_same_after_json():
    recipe = scratch_recipe(columns={"prompt": "q"}, max_steps=3, lora=Lora(4, targets=("q_proj",)), report_to=("x",))
    experiment = Experiment(recipe, losses=("dft", "focal(gamma=2)"), prompt_weights=(0.5,))
    assert Experiment.read(json.loads(json.dumps(experiment.plain()))) == experiment


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"losses": ("cross_entropy",)}, "one arm only"),
        ({"losses": ("cross_entropy", "focl")}, "focl"),
        ({"seeds": ()}, "at least one seed"),
        ({"seeds": (1, 1)}, "no seed twice"),
        ({"recipe": scratch_recipe(data="x.jsonl")}, "eval_data"),
        ({"recipe": scratch_recipe(eval_share=0.1)}, "eval_share"),
        ({"recipe": scratch_recipe(output="x", save_every=5)}, "output, save_every of the recipe cannot be set"),
        ({"recipe": scratch_recipe(roles={"response": 1.0}), "prompt_weights": (0.0,)}, "give one"),
        ({"prompt_weights": (-1.0,)}, "at least 0"),
        ({"width": 10, "heads": 4}, "multiple"),
    ],
)
def test_an_experiment_refuses_what_cannot_be_compared(given, message):
    with pytest.raises(ConfigError, match=message):
        replace(PLAN, **given).arms()


def test_seeds_and_arms_may_be_added_to_a_folder_and_nothing_else(tmp_path):
    digest = claim(tmp_path, PLAN)
    assert claim(tmp_path, replace(PLAN, seeds=(5,), losses=("dft", "focal"))) == digest
    with pytest.raises(ConfigError, match="learning_rate, width differ"):
        claim(tmp_path, replace(with_recipe(PLAN, learning_rate=1.0), width=8))
    with pytest.raises(ConfigError, match="lora differ"):
        claim(tmp_path, with_recipe(PLAN, lora=Lora(4)))


def test_a_changed_data_file_is_another_comparison(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("{}\n")
    experiment = with_recipe(PLAN, data=str(data), eval_data=str(data))
    before = digest_of(experiment.shared())
    data.write_text("{} \n")
    assert digest_of(experiment.shared()) != before


def test_results_come_back_as_they_were_saved(tmp_path):
    run = PLAN.trials()[1]
    result = arm_result(run, 0.1)
    save(tmp_path, result, said(run.arm))
    first = (trial_folder(tmp_path, run) / "result.json").read_bytes()
    back = load(tmp_path, run, "d")
    save(tmp_path, back, read_answers(tmp_path, run))
    assert (trial_folder(tmp_path, run) / "result.json").read_bytes() == first
    assert back.metrics["token_nll"].value() == result.metrics["token_nll"].value()
    assert back.metrics["ece"].value() == result.metrics["ece"].value()
    assert read_answers(tmp_path, run) == said(run.arm) and isinstance(read_answers(tmp_path, run)[0], Answer)


def test_a_result_of_another_plan_is_refused(tmp_path):
    run = PLAN.trials()[0]
    assert load(tmp_path, run, "d") is None
    save(tmp_path, arm_result(run, 0.0), ())
    with pytest.raises(DataError, match="another experiment"):
        load(tmp_path, run, "e")
    (trial_folder(tmp_path, run) / "result.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path, run, "d")


@pytest.mark.parametrize("name, is_free", [("curve.json", True), ("checkpoint-2/state.json", False)])
def test_a_new_folder_stays_free_where_the_first_arm_ends_without_a_checkpoint(tmp_path, name, is_free):
    file = trial_folder(tmp_path, PLAN.trials()[0]) / "checkpoints" / name
    with pytest.raises(DataError), claimed(tmp_path, PLAN):
        file.parent.mkdir(parents=True)
        file.write_text("[]")
        raise DataError("the loss of a row is not finite")
    assert [file.exists(), (tmp_path / "experiment.json").exists()] == [not is_free] * 2


def test_two_comparisons_never_share_a_folder(tmp_path):
    from sftloss.files import locked

    with locked(tmp_path / ".lock"), pytest.raises(ConfigError, match="another run writes there now"):
        compare(Experiment(losses=("cross_entropy", "dft")), output=tmp_path)


def test_data_in_the_folder_of_the_arms_is_refused(tmp_path):
    (tmp_path / "arms").mkdir()
    data = tmp_path / "arms" / "d.jsonl"
    data.write_text("{}\n")
    recipe = Recipe(model="demo", data=str(data), eval_share=0.1)
    with pytest.raises(ConfigError, match="which is read"):
        compare(Experiment(recipe=recipe, losses=("cross_entropy", "dft")), output=tmp_path)
    assert data.read_text() == "{}\n"
