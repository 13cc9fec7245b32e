"""`sftloss report` and `sftloss schema`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sftloss.cli.app import app
from sftloss.cli.verbs.report import ReportOptions, _labels
from sftloss.config import command_line
from sftloss.document import Document, Finding
from sftloss.report import to_json
from sftloss.report.language import in_language, translated


def run_folder(root: Path, name: str, value: float) -> Path:
    folder = root / name
    folder.mkdir()
    found = Finding("NORM002", "warning", f"Shorter by {value}.", "Because.", "sftloss analyze", value=value)
    folder.joinpath("report.json").write_text(to_json(Document("T", ("a",), (found,), ())), encoding="utf-8")
    return folder


def test_two_runs_stand_side_by_side_under_their_folders_names(tmp_path: Path) -> None:
    before, after = run_folder(tmp_path, "before", 0.25), run_folder(tmp_path, "after", 0.75)
    folder = tmp_path / "both"
    outcome = CliRunner().invoke(app, ["report", str(before), str(after), "-o", str(folder)])
    assert outcome.exit_code == 0, outcome.output
    text = folder.joinpath("report.html").read_text(encoding="utf-8")
    assert json.loads(folder.joinpath("report.json").read_text(encoding="utf-8"))["title"] == "Differences between runs"
    assert "before" in text and "after" in text and "0.25" in text and "0.75" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["before"], "at least two runs"),
        (["before", "missing"], "does not exist"),
        (["before", "before", "--label", "x"], "--label: 1 labels for 2 runs; give one for each run"),
        (["before", "before", "-o", "before"], "which is read"),
        (["before", "before", "--label", "x", "--label", "y", "-o", "earlier"], "--overwrite"),
        (["before", "before"], "--label: two runs are called"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder(tmp_path, "before", 1.0)
    run_folder(tmp_path, "earlier", 1.0)
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(app, ["report", *arguments])
    assert outcome.exit_code == 2
    assert message in outcome.output and outcome.output.count("\n") == 1


def test_runs_in_folders_of_one_name_are_called_by_the_folders_above(tmp_path: Path) -> None:
    runs = [tmp_path / "a" / "out", tmp_path / "b" / "out", tmp_path / "b" / "out" / "report.json"]
    assert _labels(runs[:2]) == ("a/out", "b/out")
    assert len(set(_labels(runs))) == 3


def test_a_report_of_another_kind_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"schema_version": "1.0"}')
    outcome = CliRunner().invoke(app, ["report", str(tmp_path / "report.json"), str(tmp_path)])
    assert outcome.exit_code == 3 and outcome.output.count("\n") == 1
    assert "has no 'title'; check it against the schema (sftloss schema).\n" in outcome.output


def test_runs_in_two_languages_are_compared_in_chinese(tmp_path: Path) -> None:
    facts = (("model", "m"), ("examples", "3"))
    for name, language in (("re", "en"), ("loss", "zh")):
        (tmp_path / name).mkdir()
        text = to_json(in_language(Document("Training", (), (), (), facts), language))
        (tmp_path / name / "report.json").write_text(text, encoding="utf-8")
    runs = [str(tmp_path / name) for name in ("re", "loss")]
    outcome = CliRunner().invoke(app, ["report", *runs, "-o", str(tmp_path / "both")])
    assert outcome.exit_code == 0, outcome.output
    made = json.loads((tmp_path / "both" / "report.json").read_text(encoding="utf-8"))
    assert made["language"] == "zh" and made["facts"][1][1] == "loss"
    assert made["headlines"][0] == translated(
        "loss differs from re in what was run: nothing that the reports name.", "zh"
    )
    assert '<html lang="zh">' in (tmp_path / "both" / "report.html").read_text(encoding="utf-8")
    refused = CliRunner().invoke(app, ["report", *runs, "--lang", "en", "-o", str(tmp_path / "english")])
    assert refused.exit_code == 2 and refused.output.count("\n") == 1
    assert "--lang: the report of loss is in Chinese; give --lang zh, or leave it out." in refused.output


def test_a_broken_report_is_named(tmp_path: Path) -> None:
    good = run_folder(tmp_path, "good", 1.0)
    bad = tmp_path / "bad.json"
    bad.write_text("{", encoding="utf-8")
    outcome = CliRunner().invoke(app, ["report", str(good), str(bad)])
    assert outcome.exit_code == 3 and "bad.json is not a report.json" in outcome.output


def test_the_schema_is_json_and_names_its_version() -> None:
    outcome = CliRunner().invoke(app, ["schema"])
    assert outcome.exit_code == 0
    assert "schema_version" in json.dumps(json.loads(outcome.output))


def test_a_report_validates_against_the_schema(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="the schema is checked where jsonschema is installed")
    folder = run_folder(tmp_path, "run", 1.0)
    outcome = CliRunner().invoke(app, ["schema"])
    jsonschema.validate(json.loads(folder.joinpath("report.json").read_text()), json.loads(outcome.output))


def test_the_runs_may_stand_in_a_configuration_too(tmp_path: Path) -> None:
    before, after = run_folder(tmp_path, "before", 0.25), run_folder(tmp_path, "after", 0.75)
    config = tmp_path / "c.yaml"
    config.write_text(f"run: [{before}, {after}]\noutput: {tmp_path / 'both'}\n")
    assert CliRunner().invoke(app, ["report", "-c", str(config)]).exit_code == 0
    outcome = CliRunner().invoke(app, ["report"])
    assert outcome.exit_code == 2 and "RUN: missing" in outcome.output


def test_a_command_line_names_no_flag_where_there_is_none() -> None:
    options = ReportOptions(run=("a", "b c"), label=("x", "y"))
    assert str(command_line("report", options)) == "sftloss report a 'b c' --label x --label y"
