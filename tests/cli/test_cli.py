"""The command line in this process: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from tests.cli.tools import MODEL, ROWS, run, write_rows

from sftloss.cli.app import app
from sftloss.cli.verbs.analyze import AnalyzeOptions
from sftloss.config import options_of


@pytest.fixture
def data(tmp_path):
    return write_rows(tmp_path / "data.jsonl")


@pytest.fixture
def analyze(data, tmp_path):
    """`sftloss analyze` on six short rows with the bundled model."""

    def call(*words: object, **replaced: object):
        given = {"model": MODEL, "data": data, "output": tmp_path / "out", **replaced}
        return run("analyze", *[w for k, v in given.items() for w in (f"--{k}", v) if v is not None], *words)

    return call


def sentence(result) -> str:
    """What a failed run said: exactly one line."""
    assert result.stderr.startswith("sftloss: ") and result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.output
    return result.stderr


def test_analyze_shows_headlines_and_writes_the_report(analyze, tmp_path):
    result = analyze()
    assert result.exit_code == 0, result.stderr
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    for headline in document["headlines"]:
        assert headline in " ".join(result.stdout.split())
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!")
    assert result.stderr == f"wrote {tmp_path / 'out'}/report.html\n"


def test_json_to_stdout_is_json_alone(analyze):
    result = analyze("--json", "-")
    assert json.loads(result.stdout)["schema_version"]


def test_quiet_says_nothing_on_stderr(analyze):
    assert analyze("--quiet").stderr == ""


def test_equal_runs_give_equal_bytes(analyze, tmp_path):
    analyze(output=tmp_path / "a")
    analyze(output=tmp_path / "b")
    first, second = ((tmp_path / name / "report.json").read_text() for name in "ab")
    assert first == second.replace(str(tmp_path / "b"), str(tmp_path / "a"))


def test_markdown_alone_on_standard_output(analyze):
    assert analyze("--markdown", "-").stdout.startswith("# ")


def test_a_missing_folder_is_named_by_the_flag_that_gave_it():
    assert "--model: ./no is missing" in run("inspect", "-m", "./no", "-d", "demo").stderr
    assert "--tokenizer: ./no is missing" in run("inspect", "--tokenizer", "./no", "-d", "demo").stderr


def test_json_and_markdown_files_hold_the_report(analyze, tmp_path):
    result = analyze("--json", tmp_path / "r.json", "--markdown", tmp_path / "r.md")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "r.json").read_text() == (tmp_path / "out" / "report.json").read_text()
    assert (tmp_path / "r.md").read_text().startswith("# ")


def test_losses_and_normalizations_all_appear(analyze):
    asked = ("--loss", "focal(gamma=2)", "--loss", "cross_entropy + 1e-4*z_loss", "--normalization", "0.7")
    text = analyze(*asked, "--batch-size", 2, "--grad-accum", 2, "--json", "-").stdout
    for label in ("focal(gamma=2)", "cross_entropy + 0.0001 * z_loss", "T^-0.7", "token mean of 2", "token mean of 4"):
        assert label in text


def test_the_first_loss_and_normalization_are_the_trained_ones(analyze):
    text = analyze("--loss", "dft", "--loss", "cross_entropy", "--normalization", "example-mean", "--json", "-").stdout
    assert ["loss", "dft, example mean"] in json.loads(text)["facts"]


def levels_of(report) -> set[str]:
    return {section["level"].partition(" ")[0] for section in report["sections"] if section["level"]}


@pytest.mark.parametrize("level", ["S0", "S1", "S2"])
def test_the_level_of_signal_is_chosen_and_named_in_every_form(analyze, level, tmp_path):
    result = analyze("--level", level, "--markdown", tmp_path / "r.md")
    assert result.exit_code == 0, result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert levels_of(report) <= {level, "S1"}  # the strips' colours are S1 whatever the shares are
    assert dict(report["facts"])["signal level"].startswith(level)
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"[{level} " in result.stdout and f"({level} " in (tmp_path / "r.md").read_text() and f"{level} " in page


def test_levels_and_roles_are_answered_from_the_table_without_a_second_pass(analyze, monkeypatch, tmp_path):
    analyze()
    monkeypatch.setattr("sftloss.analysis.table.measure.batch_tokens", lambda *a: 1 / 0)
    result = analyze("--resume", "--level", "S2", "--roles", "prompt=0.5,response=1")
    assert result.exit_code == 0, result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert ["role weights", "prompt 0.5, response 1; other roles 0"] in report["facts"]
    (roles,) = (s["tables"][0] for s in report["sections"] if s["id"] == "roles")
    assert {row[0] for row in roles["rows"]} == {"prompt", "response"}
    assert "MASK010" in {finding["id"] for finding in report["findings"]}


def test_shares_are_broken_down_by_what_is_asked_for(analyze, data):
    write_rows(data, [row | {"task": "ab"[i % 2], "language": "cd"[i // 3]} for i, row in enumerate(ROWS)])
    for words, expected in (((), {"task", "language"}), (("--group-by", "task"), {"task"})):
        sections = json.loads(analyze("--overwrite", *words, "--json", "-").stdout)["sections"]
        assert {s["id"] for s in sections} & {"task", "language", "source"} == expected


def test_refused_rows_are_findings_with_their_places(analyze, data):
    write_rows(data, [*ROWS, {"nothing": 1}])
    found = {finding["id"]: finding for finding in json.loads(analyze("--json", "-").stdout)["findings"]}
    assert found["DATA009"]["rows"] == [f"{data}:7"]
    assert found["DATA009"]["value"] == pytest.approx(1 / 7)


@pytest.mark.parametrize(("fail_on", "code"), [("never", 0), ("error", 0), ("warning", 1)])
def test_fail_on_turns_findings_into_exit_code_1(analyze, data, fail_on, code):
    write_rows(data, [*ROWS, {"nothing": 1}])
    result = analyze("--fail-on", fail_on)
    assert result.exit_code == code and "DATA009" in result.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--loss", "focl"], "focal"),
        (["--loss", "__import__('os')"], "--loss: '__import__' is no objective"),
        (["--normalization", "mean"], "--normalization: 'mean' is none of token-mean"),
        (["--policy", "fair"], "--policy: 'fair' is none of per-token"),
        (["--max-length", "1"], "--max-length: expected at least 2"),
        (["--level", "S3"], "--level: 'S3' is none of S0, S1, S2"),
        (["--roles", "promt=1"], "--roles: 'promt=1'; give weights"),
        (["--roles", "prompt=-1"], "--roles: 'prompt=-1'"),
        (["--group-by", "lang"], "--group-by: 'lang' is none of task, language, source; did you mean 'language'?"),
        (["--columns", "prompt"], "--columns: expected name=value pairs"),
        (["--columns", "promt=q"], "did you mean"),
        (["--format", "alpacca"], "alpaca"),
        (["--grad-accum", "2"], "--grad-accum: needs --batch-size"),
        (["--overwrite", "--resume"], "choose one"),
        (["--json", "/dev/null"], "is not a file"),
        (["--json", "/no/such/folder/r.json"], "is missing or cannot be written"),
        (["--dtype", "int8"], "--dtype: 'int8' is none of"),
    ],
)
def test_a_usage_mistake_is_one_sentence_and_exit_code_2(analyze, words, expected):
    result = analyze(*words)
    assert result.exit_code == 2 and expected in sentence(result)


def test_an_unknown_flag_is_exit_code_2(analyze):
    assert analyze("--lossy", "dft").exit_code == 2


def test_a_required_option_is_named(analyze):
    result = analyze(model=None)
    assert result.exit_code == 2 and "--model: missing" in sentence(result)


def test_missing_data_is_exit_code_3(analyze, tmp_path):
    result = analyze(data=tmp_path / "none.jsonl")
    assert result.exit_code == 3 and "no such file" in sentence(result)


@pytest.mark.parametrize("rows", [[], [{"x": 1}], [{"x": 1}, {"y": 2}, {"prompt": "a", "completion": "b"}]])
def test_data_without_usable_rows_is_exit_code_3(analyze, data, rows):
    write_rows(data, rows)
    result = analyze()
    assert result.exit_code == 3 and str(data) in sentence(result)
    assert not (data.parent / "out" / "report.html").exists()


def test_rows_that_train_nothing_are_exit_code_3(analyze, data):
    write_rows(data, [{"messages": [{"role": "user", "content": "x" * 50}, {"role": "assistant", "content": "y"}]}])
    result = analyze("--max-length", 8)
    assert result.exit_code == 3 and "truncated-away" in sentence(result)


def test_on_error_raise_stops_at_the_first_bad_row(analyze, data):
    write_rows(data, [ROWS[0], {"nothing": 1}, ROWS[1]])
    result = analyze("--on-error", "raise")
    assert result.exit_code == 3 and f"{data}:2" in sentence(result)


def test_a_model_that_is_not_there_is_exit_code_4(analyze, tmp_path):
    result = analyze(model=tmp_path / "none" / "model")
    assert result.exit_code == 4 and "missing" in sentence(result)


@pytest.mark.parametrize(
    ("device", "said"),
    [("cuda:99", "cuda:99 is not on this machine"), ("gpu", "cuda is not on this machine")],
)
def test_a_device_that_is_not_there_is_said_before_the_model_loads(analyze, monkeypatch, device, said):
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda *a, **k: 1 / 0)
    result = analyze("--device", device)
    assert (
        result.exit_code == 2
        and (message := sentence(result)).startswith(f"sftloss: --device: {said}")
        and "here are cpu" in message
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--format", "xyz"],
            "--format: there is no 'xyz'; formats are tokens, sharegpt, messages, alpaca, prompt/response",
        ),
        (["--columns", "prompt=zz"], "say with --columns prompt=...,response=... which is which"),
        (["--max-length", "3", "--on-error", "skip"], "give a larger --max-length"),
        (["--on-error", "report", "--columns", "response=absent"], "--columns prompt=...,response=..."),
        (["--tokenizer", "/none"], "--tokenizer: /none is missing; give a model's folder"),
    ],
)
def test_a_mistake_is_told_in_flags_and_names_no_function(analyze, words, expected):
    said = sentence(analyze(*words))
    assert expected in said
    assert not re.search(r"\b[a-z]+_[a-z]+(: |=|\()", said) and "{" not in said


def test_a_share_of_bad_rows_too_large_names_the_flag_that_reads_on(analyze, data):
    write_rows(data, [ROWS[0], {"x": 1}, {"y": 1}])
    assert "--on-error skip reads on regardless" in sentence(analyze())


def test_a_failed_run_leaves_no_table_in_the_way_of_the_next(analyze, data, tmp_path):
    good = data.read_text()
    write_rows(data, [{"q": "copy: a", "a": "a"}])
    assert analyze().exit_code == 3
    assert not (tmp_path / "out").exists()
    data.write_text(good)
    assert analyze().exit_code == 0


def test_resume_goes_on_with_a_copy_of_the_data(analyze, data, monkeypatch, tmp_path):
    assert analyze().exit_code == 0
    copy = tmp_path / "elsewhere.jsonl"
    copy.write_bytes(data.read_bytes())
    monkeypatch.setattr("sftloss.analysis.table.measure.batch_tokens", lambda *a: 1 / 0)
    result = analyze("--resume", data=copy)
    assert result.exit_code == 0, result.stderr
    copy.write_text(copy.read_text().replace("plum", "pear"))
    assert analyze("--resume", data=copy).exit_code == 2


def test_the_answer_ends_with_the_comparison_that_trains_its_losses():
    from sftloss.analysis.shared import fixes
    from sftloss.document import Command, Document, Section
    from sftloss.pipeline.analyze import with_run

    assert str(fixes.training(["dft", "dft"], [0.0, 1.0])).endswith(
        "--loss dft --normalization token-mean --normalization example-mean --eval-share 0.1"
    )
    note = str(fixes.training(["dft", "prift"], [1.0, 0.0], "response=1"))
    document = Document("t", (), (), (Section("answer", "Answer", "", notes=(f"Best: {note}",)),))
    flags = (("--model", "m"), ("--data", "d"), ("--reference", "r"), ("--level", "S2"))
    assert with_run(document, Command("analyze", flags, inputs=())).sections[0].notes == (
        "Best: sftloss compare --model m --data d --reference r --loss dft --loss prift --normalization example-mean "
        "--roles response=1 --eval-share 0.1",
    )


def test_a_command_that_a_finding_advises_runs_as_it_stands(analyze, data, monkeypatch, tmp_path):
    write_rows(
        data, [{"messages": [{"role": "user", "content": "say"}, {"role": "assistant", "content": w}]} for w in "ab"]
    )
    monkeypatch.chdir(tmp_path)
    from sftloss.document import Command, Document, Finding
    from sftloss.pipeline.analyze import with_run

    fixes = (Command("analyze", (("--loss", "dft"),), "look"), Command("inspect"))
    document = Document("t", (), tuple(Finding("A", "info", "s", "w", fix) for fix in fixes), ())
    flags = (("--model", str(MODEL)), ("--data", str(data)), ("--max-length", "64"), ("--loss", "dft"))
    for finding in with_run(document, Command("analyze", flags, inputs=())).findings:
        line = str(finding.fix)
        words = shlex.split(line[line.index("sftloss") :])
        assert "--max-length" in words
        assert run(*words[1:]).exit_code == 0
    assert with_run(document, Command("demo", inputs=())) == document == with_run(document, None)


def test_our_own_mistake_is_exit_code_5_and_says_so(analyze, monkeypatch):
    monkeypatch.setattr("sftloss.analysis.signal.describe.signal_headlines", lambda study: 1 / 0)
    result = analyze()
    assert result.exit_code == 5 and "internal error" in sentence(result) and "-v" in result.stderr


def test_verbose_shows_the_traceback(analyze, monkeypatch):
    monkeypatch.setattr("sftloss.analysis.signal.describe.signal_headlines", lambda study: 1 / 0)
    result = analyze("-v")
    assert result.exit_code == 5 and "ZeroDivisionError" in result.stderr and "Traceback" in result.stderr


def test_an_error_steers_no_terminal(analyze, tmp_path):
    result = analyze(data=tmp_path / "a\x1b[31mb.jsonl")
    assert "\x1b" not in sentence(result)


def test_a_report_is_never_overwritten_unasked(analyze, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("mine")
    result = analyze()
    assert result.exit_code == 2 and "--overwrite" in sentence(result)
    assert (out / "report.html").read_text() == "mine"
    json_file = tmp_path / "mine.json"
    json_file.write_text("mine")
    assert analyze("--json", json_file, output=tmp_path / "new").exit_code == 2
    assert json_file.read_text() == "mine"


def test_overwrite_replaces_the_report_and_nothing_else(analyze, tmp_path):
    out = tmp_path / "out"
    assert analyze().exit_code == 0
    (out / "notes.txt").write_text("mine")
    result = analyze("--overwrite", "--loss", "dft")
    assert result.exit_code == 0, result.stderr
    assert (out / "notes.txt").read_text() == "mine"
    assert "dft" in (out / "report.json").read_text()


def test_overwrite_leaves_a_folder_that_is_no_table(analyze, tmp_path):
    precious = tmp_path / "out" / "table"
    precious.mkdir(parents=True)
    (precious / "thesis.txt").write_text("mine")
    result = analyze("--overwrite")
    assert result.exit_code == 2 and "files that no run wrote (thesis.txt)" in sentence(result)
    assert (precious / "thesis.txt").read_text() == "mine"


def test_overwrite_follows_no_link(analyze, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "manifest.json").write_text("{}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "table").symlink_to(tmp_path / "elsewhere")
    assert analyze("--overwrite").exit_code == 2
    assert (tmp_path / "elsewhere" / "manifest.json").exists()


def test_resume_measures_nothing_twice(analyze, monkeypatch, tmp_path):
    assert analyze().exit_code == 0
    before = (tmp_path / "out" / "report.json").read_text()
    monkeypatch.setattr("sftloss.analysis.table.measure.batch_tokens", lambda *a: 1 / 0)
    result = analyze("--resume")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "out" / "report.json").read_text().replace(" --resume", "") == before


def test_resume_refuses_another_table(analyze):
    assert analyze().exit_code == 0
    result = analyze("--resume", "--loss", "dft")
    assert result.exit_code == 2
    sentence(result)


def test_a_folder_that_cannot_be_written_is_named_before_anything_runs(analyze, tmp_path):
    (tmp_path / "file").write_text("")
    result = analyze(output=tmp_path / "file" / "out")
    assert result.exit_code == 2 and "cannot be written" in sentence(result)


def test_a_full_disk_is_named_and_the_old_report_stays(analyze, monkeypatch, tmp_path):
    assert analyze().exit_code == 0
    before = (tmp_path / "out" / "report.json").read_bytes()

    page = (tmp_path / "out" / "report.html").read_bytes()

    def full(when: int):
        """The disk fills up at this call; a table's parts are written by the same calls as the report."""
        left = iter(range(when))

        def fsync(_):
            if next(left, None) is None:
                raise OSError(28, "No space left on device")

        return fsync

    for when in range(6):  # manifest, two parts, the mark that all is done, then report.json and report.html
        monkeypatch.setattr("os.fsync", full(when))
        result = analyze("--overwrite")
        assert result.exit_code == 5 and "No space left on device" in sentence(result) and "MB free" in result.stderr
        assert (tmp_path / "out" / "report.json").read_bytes() == before
        assert (tmp_path / "out" / "report.html").read_bytes() == page
        assert not [path for path in (tmp_path / "out").rglob("*") if "tmp" in path.name]


def test_a_yaml_file_fills_what_flags_leave_open(analyze, tmp_path, data):
    config = tmp_path / "c.yaml"
    config.write_text(f"model: {MODEL}\ndata: {data}\nloss: [dft, cross_entropy]\nmax-examples: 4\n")
    result = run("analyze", "-c", config, "-o", tmp_path / "out", "--loss", "focal", "--json", "-")
    document = json.loads(result.stdout)
    assert ["examples", "4"] in document["facts"]
    assert "focal" in str(document["facts"]) and "dft" not in str(document["facts"])


def test_levels_roles_and_groups_are_yaml_keys_with_numbers_as_numbers(tmp_path, data):
    config = tmp_path / "c.yaml"
    config.write_text(
        f"model: {MODEL}\ndata: {data}\nlevel: S0\nroles: {{prompt: 0.5, response: 1}}\ngroup-by: [source]\n"
    )
    facts = dict(json.loads(run("analyze", "-c", config, "-o", tmp_path / "out", "--json", "-").stdout)["facts"])
    assert facts["signal level"].startswith("S0") and facts["role weights"].startswith("prompt 0.5, response 1;")


def test_the_number_format_and_the_count_of_examples_are_the_flags(analyze, tmp_path):
    result = analyze("--dtype", "bfloat16", "--device", "cpu", "--max-examples", 3, "--json", "-")
    assert ["rows used", "3 of the first 3"] in json.loads(result.stdout)["facts"]
    manifest = json.loads((tmp_path / "out" / "table" / "manifest.json").read_text())
    assert "bfloat16" in json.dumps(manifest)


def test_a_mistake_in_yaml_is_exit_code_2_with_its_line(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("model: m\nlos: dft\n")
    result = run("analyze", "-c", config)
    assert result.exit_code == 2 and f"{config}:2: unknown key 'los'; did you mean 'loss'?" in sentence(result)


def test_print_config_prints_options_that_give_the_same_options(tmp_path):
    words = ("analyze", "-m", "m", "-d", "d", "--loss", "dft", "--columns", "prompt=q", "--no-overwrite")
    first = run(*words, "--print-config").stdout
    (tmp_path / "c.yaml").write_text(first)
    assert run("analyze", "-c", tmp_path / "c.yaml", "--print-config").stdout == first
    assert "loss:\n- dft\n" in first


def test_the_command_in_the_report_gives_the_same_report(analyze, tmp_path):
    words = ("--loss", "focal(gamma=2) + 1e-4*z_loss", "--columns", "task=kind", "--normalization", "sqrt")
    first = json.loads(analyze(*words, "--json", "-").stdout)
    command = shlex.split(dict(first["provenance"])["command"])
    assert command[:2] == ["sftloss", "analyze"]
    again = run(*command[1:], "--overwrite")
    first_findings, again_findings = first["findings"], json.loads(again.stdout)["findings"]
    assert again_findings == first_findings


def test_losses_lists_every_objective():
    from sftloss.objectives import OBJECTIVES

    text = run("losses").stdout
    assert all(re.search(rf"^{name}\b", text, re.M) for name in OBJECTIVES)
    assert {row["name"] for row in json.loads(run("losses", "--json").stdout)} == set(OBJECTIVES)


def test_losses_of_a_paper_are_found_by_its_id():
    assert run("losses", "2508.05629").stdout.startswith("dft  On the Generalization of SFT")
    assert {row["expression"] for row in json.loads(run("losses", "arXiv:2405.18906", "--json").stdout)} == {
        "brier",
        "spherical",
    }
    assert "no objective is from arXiv:1234.56789" in run("losses", "1234.56789").stderr


def test_env_names_versions_and_no_place():
    text = run("env").stdout
    assert text.startswith("sftloss ") and "torch" in text and "devices: cpu" in text
    assert "/" not in text


def test_version_is_the_package_version():
    import sftloss

    assert run("--version").stdout == f"sftloss {sftloss.__version__}\n"


def verbs() -> list[str]:
    return [command.name or command.callback.__name__ for command in app.registered_commands]


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_and_option_has_help(verb):
    from typer.main import get_command

    command = get_command(app).commands[verb]
    assert (command.help or "").strip()
    without = [option.name for option in command.params if not (getattr(option, "help", None) or "").strip()]
    assert not without
    assert run(verb, "--help").exit_code == 0


def test_no_verb_is_help():
    assert "Commands:" in run().output


@pytest.mark.parametrize("name", [one.name for one in options_of(AnalyzeOptions)])
def test_every_yaml_key_is_a_flag(name):
    assert f"--{name.replace('_', '-')}" in run("analyze", "--help").stdout
