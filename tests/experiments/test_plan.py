"""Arms, names, and what may share a folder."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.experiments.made import PLAN, arm_result, said

from sftloss.errors import ConfigError, DataError
from sftloss.experiments.plan import Plan, from_plain, labels, to_plain
from sftloss.experiments.run.results import Answer, answers, arm_folder, claim, load, save


def test_arms_are_all_combinations_reference_first():
    plan = Plan(losses=("cross_entropy", "dft"), normalizations=("token-mean", "1"), prompt_weights=(0.0, 0.1))
    arms = plan.arms()
    assert len(arms) == 8 and len({run.name for run in plan.runs()}) == 8 * len(plan.seeds)
    first = arms[0]
    assert (first.loss, first.normalization, first.prompt_weight) == ("cross_entropy", "token mean", 0.0)


def test_labels_say_only_what_differs():
    assert labels(PLAN.arms()) == ("cross_entropy", "dft")
    two = Plan(losses=("cross_entropy", "dft"), normalizations=("token-mean", "sqrt")).arms()
    assert labels(two)[1] == "cross_entropy · sqrt" and two[1].slug == "cross_entropy-sqrt"
    assert labels(Plan(normalizations=("token-mean", "0.7")).arms()) == ("token mean", "T^-0.7")


def test_a_plan_is_the_same_after_json():
    plan = Plan(losses=("dft", "focal(gamma=2)"), columns={"prompt": "q"}, prompt_weights=(0.5,), steps=3)
    assert from_plain(json.loads(json.dumps(to_plain(plan)))) == plan


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"losses": ("cross_entropy",)}, "one arm only"),
        ({"losses": ("cross_entropy", "focl")}, "focl"),
        ({"losses": ()}, "empty"),
        ({"seeds": (1, 1)}, "twice"),
        ({"data": "x.jsonl"}, "eval-data"),
        ({"prompt_weights": (-1.0,)}, "at least 0"),
        ({"width": 10, "heads": 4}, "multiple"),
    ],
)
def test_plan_refuses_what_cannot_be_compared(given, told):
    with pytest.raises(ConfigError, match=told):
        replace(PLAN, **given).arms()


def test_seeds_and_arms_may_be_added_to_a_folder_and_nothing_else(tmp_path):
    digest = claim(tmp_path, PLAN)
    assert claim(tmp_path, replace(PLAN, seeds=(5,), losses=("dft", "focal"))) == digest
    with pytest.raises(ConfigError, match="learning_rate, width differ"):
        claim(tmp_path, replace(PLAN, learning_rate=1.0, width=8))


def test_a_changed_data_file_is_another_comparison(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("{}\n")
    plan = replace(PLAN, data=str(data), eval_data=str(data))
    before = plan.digest()
    data.write_text("{} \n")
    assert plan.digest() != before


def test_results_come_back_as_they_were_saved(tmp_path):
    run = PLAN.runs()[1]
    result = arm_result(run, 0.1)
    save(tmp_path, result, said(run.arm))
    first = (arm_folder(tmp_path, run) / "result.json").read_bytes()
    back = load(tmp_path, run, "d")
    save(tmp_path, back, answers(tmp_path, run))
    assert (arm_folder(tmp_path, run) / "result.json").read_bytes() == first
    assert back.metrics["token_nll"].value() == result.metrics["token_nll"].value()
    assert back.metrics["ece"].value() == result.metrics["ece"].value()
    assert answers(tmp_path, run, 1) == said(run.arm)[:1] and isinstance(answers(tmp_path, run)[0], Answer)


def test_a_result_of_another_plan_is_refused(tmp_path):
    run = PLAN.runs()[0]
    assert load(tmp_path, run, "d") is None
    save(tmp_path, arm_result(run, 0.0), ())
    with pytest.raises(DataError, match="another comparison"):
        load(tmp_path, run, "e")
    (arm_folder(tmp_path, run) / "result.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path, run, "d")
