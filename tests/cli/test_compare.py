"""`sftloss compare`, `sftloss study` and `sftloss demo --compare`, in this process."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace

import pytest
from tests.cli.tools import run
from tests.experiments.made import PLAN, results, with_recipe
from tests.paths import ROOT

from sftloss.cli.show import print_report
from sftloss.cli.verbs.compare import CompareOptions, experiment_of
from sftloss.cli.verbs.train import TrainOptions
from sftloss.config import command_line, options_of, resolve
from sftloss.document import Document
from sftloss.experiments import STUDIES, Experiment, pretrained_study, study_page
from sftloss.experiments.experiment import digest_of
from sftloss.experiments.pages.describe import experiment_document
from sftloss.experiments.pages.groups import OUTPUTS
from sftloss.experiments.pretrained import PRETRAINED
from sftloss.experiments.studies import DEMO
from sftloss.experiments.verdicts.comparisons import least_seeds
from sftloss.finetune import Lora, Recipe
from sftloss.models import SMOLLM2
from sftloss.report import Report, from_json, to_json
from sftloss.report.language import in_language

SMALL = (
    "--width", 16, "--heads", 2, "--layers", 1, "--max-examples", 32, "--eval-rows", 8, "--max-steps", 2,
    "--batch-size", 8, "--points", 1, "--samples", 0, "--max-new-tokens", 4, "--seeds", 1,
)  # fmt: skip


def test_compare_trains_shows_headlines_and_writes_the_report(tmp_path):
    words = ("compare", "--loss", "cross_entropy", "--loss", "dft", *SMALL, "-o", tmp_path / "out")
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert document["headlines"][0] in " ".join(result.stdout.split())
    assert "2 of 2 trained" in result.stderr and (tmp_path / "out" / "report.md").exists()
    again = run(*words, "--json", "-")
    assert json.loads(again.stdout)["title"] == document["title"] and "trained" not in again.stderr


def test_the_demo_compares_two_losses_and_two_normalizations(tmp_path, monkeypatch):
    """The demo's own plan, smaller: its arms, tasks and report are those of the command."""
    small = {"eval_rows": 16, "points": 1, "max_new_tokens": 4, "seeds": (0,)}
    monkeypatch.setattr(
        "sftloss.experiments.studies.DEMO", replace(with_recipe(DEMO, max_examples=64, max_steps=2), **small)
    )
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # workers are processes, which see no patch
    result = run("demo", "--compare", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "4 of 4 trained" in result.stderr and (tmp_path / "out" / "report.html").exists()
    assert dict(document["provenance"])["command"] == "sftloss demo --compare"
    assert {"outputs", "lengths", "calibration", "curves"} <= {section["id"] for section in document["sections"]}


@pytest.mark.slow
def test_the_whole_demo_judges_length_where_one_prompt_has_answers_of_several(tmp_path):
    result = run("demo", "--compare", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "20 of 20 trained" in result.stderr
    assert not [one for one in document["findings"] if one["severity"] == "error"]
    (table,) = [t for s in document["sections"] for t in s["tables"] if t["id"] == "comparisons"]
    keys = [column["key"] for column in table["columns"]]
    lengths = [r for r in (dict(zip(keys, row, strict=True)) for row in table["rows"]) if "length" in r["measure"]]
    assert len(lengths) == 3 and all("some" in row["measure"] for row in lengths)


def test_a_config_file_gives_the_plan_of_its_flags(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("loss: [cross_entropy, dft]\nnormalization: [token-mean, 0.5]\nseeds: 2\nprompt-weight: [0, 0.1]\n")
    shown = run("compare", "-c", file, "--print-config")
    assert shown.exit_code == 0 and "prompt-weight" in shown.stdout
    flags = {"loss": ("cross_entropy", "dft"), "normalization": ("token-mean", "0.5"), "prompt_weight": ("0", "0.1")}
    plan = experiment_of(resolve(CompareOptions, {**flags, "seeds": 2}))
    assert plan == experiment_of(resolve(CompareOptions, {}, config=file))
    assert plan.seeds == (0, 1) and plan.prompt_weights == (0.0, 0.1) and len(plan.arms()) == 8


def test_flags_default_to_what_an_experiment_defaults_to():
    assert experiment_of(CompareOptions()) == Experiment()


def test_a_pretrained_model_gets_the_learning_rate_of_train():
    """The rate of a model from scratch ruins a pretrained one."""
    given = {"model": "dir", "data": "x.jsonl", "eval_data": "y.jsonl"}
    assert experiment_of(resolve(CompareOptions, given)).recipe == Recipe(**given)
    assert experiment_of(resolve(CompareOptions, {**given, "learning_rate": 1e-3})).recipe.learning_rate == 1e-3


def test_compare_takes_every_training_option_of_train():
    """Both verbs share their records; what is left out is what a comparison decides by itself."""
    train, compare = ({one.name for one in options_of(schema)} for schema in (TrainOptions, CompareOptions))
    decided = {"seed", "device", "eval_every", "eval_batch_size", "keep", "keep_best", "overwrite", "resume",
               "resume_from", "dry_run", "logging_every", "watch_gradients", "report_to", "run_name"}  # fmt: skip
    assert train - compare == decided
    given = {"lora_r": 4, "lora_targets": ("q_proj",), "optimizer": "sgd", "packing": True, "max_length": 64}
    recipe = experiment_of(resolve(CompareOptions, {**given, "normalizer": "tokens"})).recipe
    assert recipe.lora == Lora(4, targets=("q_proj",)) and recipe.packing and recipe.optimizer == "sgd"
    assert recipe.normalizer == "tokens" and recipe.learning_rate == 3e-3


def test_a_loss_of_ones_own_is_compared_by_its_import_path(tmp_path, monkeypatch):
    """A module in the working directory; the second loss is half the first, so AdamW trains the same model."""
    (tmp_path / "half_losses.py").write_text(
        "from sftloss.objectives import cross_entropy\n\ndef half(stats):\n    return 0.5 * cross_entropy(stats)\n"
    )
    monkeypatch.chdir(tmp_path)
    result = run("compare", "--loss", "cross_entropy", "--loss", "half_losses:half", *SMALL, "--max-grad-norm", 0)
    assert result.exit_code == 0, result.stderr
    document = json.loads((tmp_path / "sftloss-compare" / "report.json").read_text())
    (table,) = [t for s in document["sections"] for t in s["tables"] if t["id"] == "metrics-loss"]
    (first, *losses), (second, *others) = table["rows"]
    assert (first, second) == ("cross_entropy", "half_losses:half")
    assert losses[0] == pytest.approx(others[0], rel=1e-4)  # AdamW divides by the size of the gradient, up to its eps


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--loss", "dft"), "one arm only"),
        (("--loss", "dft", "--loss", "focl"), "focl"),
        (("--loss", "dft", "--loss", "focal", "--devices", "tpu:0"), "tpu:0"),
        (("--prompt-weight", "much", "--prompt-weight", "1"), "much"),
        (("--loss", "dft", "--loss", "focal", "--data", "x.jsonl"), "--eval-data"),
        (("--loss", "dft", "--loss", "focal", "--data", "x.jsonl", "--noise", "0.1"), "--noise: only generated"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_trained(tmp_path, words, told):
    result = run("compare", *words, "-o", tmp_path / "out")
    assert result.exit_code == 2 and told in result.stderr
    assert not (tmp_path / "out" / "arms").exists()


def test_another_comparison_in_the_folder_is_refused(tmp_path):
    words = ("compare", "--loss", "cross_entropy", "--loss", "dft", *SMALL, "-o", tmp_path)
    assert run(*words).exit_code == 0
    result = run(*words, "--learning-rate", "0.1")
    assert result.exit_code == 2 and "--learning-rate differ" in result.stderr


@pytest.mark.parametrize("seeds", [2, 3])
def test_the_advice_to_take_more_seeds_is_the_command_itself_and_runs(seeds):
    given = {"loss": ("cross_entropy", "dft"), "seeds": seeds, "max_steps": 7, "output": "a b"}
    options = resolve(CompareOptions, given)
    plan = replace(PLAN, seeds=tuple(range(seeds)))
    document = experiment_document(plan, results(experiment=plan), command=command_line("compare", options))
    fix = str(document.findings[0].fix)
    assert fix == "sftloss compare --loss cross_entropy --loss dft --max-steps 7 --output 'a b' --seeds 5"
    shown = run(*shlex.split(fix)[1:], "--print-config")
    assert shown.exit_code == 0 and "seeds: 5" in shown.stdout and "output: a b" in shown.stdout


def test_every_study_has_a_command():
    shown = run("study", "--help")
    assert shown.exit_code == 0 and all(name in shown.stdout for name in STUDIES)


@pytest.mark.parametrize("name", sorted({*STUDIES} - {"real_data"}))
def test_a_study_can_differ_in_one_thing_only(name):
    plan = STUDIES[name].experiment
    assert len(plan.seeds) >= 5
    assert sum(len(set(column)) > 1 for column in zip(*(arm.parts for arm in plan.arms()), strict=True)) == 1


COMMITTED = sorted(file for file in (ROOT / "studies").glob("*.json"))


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.stem)
def test_a_page_of_a_study_says_what_its_result_says_and_neither_holds_rows(file):
    page = file.with_suffix(".md").read_text(encoding="utf-8")
    record = from_json(file.read_text(encoding="utf-8"))
    of_pretrained = PRETRAINED.get(file.stem.removeprefix(f"{SMOLLM2}-")) if file.stem.startswith(SMOLLM2) else None
    study = STUDIES[file.stem] if of_pretrained is None else replace(of_pretrained, name=file.stem)
    assert page == study_page(study, record)
    assert OUTPUTS not in {section.id for section in record.sections}


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_study_of_a_pretrained_model_is_a_plan(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(
        '{"prompt": "q", "response": "yes", "task": "en"}\n{"prompt": "q", "response": "y", "task": "zh"}\n'
    )
    further = {"eval_data": "held_out.jsonl"} if name == "rewards" else {}
    study = pretrained_study(name, "rows.jsonl", "other.jsonl", reference=("folder",), **further)
    plan = study.experiment
    assert name != "languages" or plan.tasks == ("none", "static", "static(en=1.500, zh=0.500)")
    assert len(plan.seeds) >= least_seeds(len(plan.arms())) and plan.recipe.lora is not None
    assert study.name == f"smollm2-{name}" and plan.forget_data == "other.jsonl" and plan.recipe.data == "rows.jsonl"
    assert Experiment.read(plan.plain()) == plan


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("objectives",), ": the study objectives needs --model smollm2 and --data FILE."),
        (("languages", "--data", "x.jsonl"), "the study languages needs --model smollm2 and --data FILE"),
        (
            ("length", "--data", ROOT / "pyproject.toml"),
            "--data: a study from scratch has its own rows; leave it out, or give --model smollm2 too",
        ),
        (("focal", "--reference", "y"), "--reference: a study from scratch has its own rows; leave it out."),
        (("focal", "--eval-data", ROOT / "pyproject.toml"), "--eval-data: a study from scratch"),
        (("focal", "--forget-data", ROOT / "pyproject.toml"), "--forget-data: a study from scratch"),
        (("length", "--model", "smollm2"), "the study length needs --model smollm2 and --data FILE"),
        (("length", "--check", ROOT / "studies" / "length.json", "--reference", "y"), "--reference: a study from"),
        (("focal", "--model", "smollm2"), "there is no study 'focal' of smollm2"),
        (("forgetting", "--model", "smollm2", "--data", "x.jsonl"), "made by sftloss reference"),
        (("rewards", "--model", "smollm2", "--data", "x.jsonl"), "--eval-data: rewards needs rows without wrong"),
        (("focal", "--model", "smollm2", "--data", ROOT / "pyproject.toml"), "length, objectives"),
    ],
)
def test_a_study_that_cannot_be_run_says_what_is_missing(words, told):
    result = run("study", *words)
    assert result.exit_code == 2 and told in result.stderr


def test_a_record_in_chinese_is_refused(tmp_path):
    record = in_language(from_json((ROOT / "studies" / "length.json").read_text(encoding="utf-8")), "zh")
    (tmp_path / "report.json").write_text(to_json(record), encoding="utf-8")
    result = run("study", "length", "--check", tmp_path / "report.json")
    assert result.exit_code == 2 and "report.json is not in English; give the length.json" in result.stderr


def test_every_study_has_a_result_and_every_result_a_study():
    ours, of_pretrained = set(STUDIES), {f"{SMOLLM2}-{name}" for name in PRETRAINED}
    assert ours <= {file.stem for file in COMMITTED} <= ours | of_pretrained


@pytest.mark.parametrize("name", [name for name in PRETRAINED if ROOT / f"studies/{SMOLLM2}-{name}.json" in COMMITTED])
def test_the_result_of_a_pretrained_model_is_of_the_plan(name):
    """Its digest is of the files of rows, which are not ours; the plan's numbers are in the table of the method."""
    document = from_json((ROOT / "studies" / f"{SMOLLM2}-{name}.json").read_text(encoding="utf-8"))
    plan, facts = PRETRAINED[name].experiment, dict(document.facts)
    (method,) = [table for section in document.sections for table in section.tables if table.id == "method"]
    rows = dict(method.rows)
    assert facts["seeds"] == ", ".join(map(str, plan.seeds)) and SMOLLM2 in facts["model"]
    assert rows["budget"].startswith(f"{plan.recipe.max_steps} steps a training")
    assert all(f"{rate:g}" in rows["tuned"] + rows["learning rate"] for rate in plan.learning_rates)


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_the_result_of_a_study_is_what_its_command_makes(name):
    document = from_json((ROOT / "studies" / f"{name}.json").read_text(encoding="utf-8"))
    plan = STUDIES[name].experiment
    assert dict(document.facts)["seeds"] == ", ".join(map(str, plan.seeds))
    if plan.is_generated:  # the digest of files is of their contents
        assert dict(document.provenance)["digest of the experiment"] == digest_of(plan.shared())


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.stem)
def test_a_page_says_how_its_arms_were_trained(file):
    """The table is of the record, and the answer names the learning rate."""
    page = file.with_suffix(".md").read_text(encoding="utf-8")
    (method,) = [t for s in from_json(file.read_text(encoding="utf-8")).sections for t in s.tables if t.id == "method"]
    rows = dict(method.rows)
    assert {*rows} == {"model", "adapters", "data", "held-out data", "optimizer", "learning rate", "schedule", "batch",
                       "budget", "decoding", "seeds", "tuned"}  # fmt: skip
    assert (
        all(f"| {name} | " in page for name in rows)
        and "Learning rate: " in page.split("**Answer.**")[1].split("\n")[0]
    )


def test_the_example_on_real_data_is_the_study():
    plan = experiment_of(resolve(CompareOptions, {}, config=ROOT / "examples" / "compare_real.yaml"))
    assert plan == STUDIES["real_data"].experiment


def test_the_yaml_of_the_docs_is_a_plan(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "compare.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for i, block in enumerate(blocks):
        file = tmp_path / f"{i}.yaml"
        file.write_text(block, encoding="utf-8")
        shown = run("compare", "-c", file, "--print-config")
        assert shown.exit_code == 0, shown.stderr


def test_markdown_on_standard_output_is_the_whole_report(capsys):
    whole, brief = (Document(title, (), (), ()) for title in ("Whole", "Brief"))
    print_report(Report(whole), markdown="-", brief=brief)
    assert capsys.readouterr().out.startswith("# Whole\n")
    print_report(Report(whole), brief=brief)
    assert "Brief" in capsys.readouterr().out
