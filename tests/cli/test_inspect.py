"""`sftloss inspect`: what it prints, where, and with which exit code."""

from __future__ import annotations

import io
import json

import pytest
from tests.cli.tools import MODEL, ROWS, run, write_rows
from tests.paths import REAL_DATA as REAL

from sftloss.document import TokenStrip
from sftloss.report.terminal import render_mask

FILES = {
    "alpaca_en_demo.json": 999,
    "alpaca_zh_demo.json": 1000,
    "glaive_toolcall_en_demo.json": 300,
    "v1_sft_demo.jsonl": 500,
    "gsm8k_train.jsonl": 7473,
}
HOSTILE = "\x1b[31mred\x1b]0;title\x07 \u202eback [bold]rich[/bold] </script><script>alert(1)</script>"


@pytest.fixture
def inspect(tmp_path):
    """`sftloss inspect` on rows with the bundled tokenizer."""

    def call(*words: object, rows: list[dict[str, object]] | None = None, **replaced: object):
        given = {"tokenizer": MODEL, "data": write_rows(tmp_path / "data.jsonl", rows), **replaced}
        return run("inspect", *[w for k, v in given.items() for w in (f"--{k}", v) if v is not None], *words)

    return call


def asked(content: str, answer: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]}


def test_inspect_puts_trained_tokens_in_brackets_where_there_is_no_colour(inspect):
    result = inspect()
    assert result.exit_code == 0, result.stderr
    assert "P> <|im_start|>user↵copy: red<|im_end|>↵<|im_start|>assistant↵\nR> [red<|im_end|>]\n" in result.stdout
    assert "\x1b" not in result.stdout and result.stderr == ""


def test_in_brief_the_answer_and_the_findings_are_shown(inspect):
    shown = inspect("--brief").stdout
    assert "usable rows: " in shown and "Findings: " in shown
    assert "By role" not in shown and "R> [" not in shown


def test_inspect_takes_the_tokenizer_of_a_model(inspect):
    by_model, by_tokenizer = (json.loads(inspect("--json", "-", **where).stdout) for where in (
        {"tokenizer": None, "model": MODEL}, {},
    ))  # fmt: skip
    assert by_model["findings"] == by_tokenizer["findings"] and by_model["sections"][1:] == by_tokenizer["sections"][1:]


def test_inspect_without_tokenizer_is_exit_code_2(inspect):
    result = inspect(tokenizer=None)
    assert result.exit_code == 2 and "--tokenizer: missing" in result.stderr


def test_inspect_of_a_tokenizer_that_is_not_there_is_exit_code_4(inspect, tmp_path):
    result = inspect(tokenizer=tmp_path / "none")
    assert result.exit_code == 4 and result.stderr.count("\n") == 1


def test_inspect_of_missing_data_is_exit_code_3(inspect, tmp_path):
    assert inspect(data=tmp_path / "none.jsonl").exit_code == 3


def test_inspect_says_why_no_row_can_be_used_and_is_exit_code_3(inspect):
    result = inspect(rows=[{"nothing": 1}])
    assert result.exit_code == 3 and "DATA009" in result.stdout


def test_inspect_ends_at_the_first_unusable_row_where_asked_to(inspect):
    rows = [*ROWS, {"x": 1}, {"messages": [{"role": "user", "content": "?"}]}]
    assert inspect(rows=rows).exit_code == inspect("--on-error", "report", rows=rows).exit_code == 0
    result = inspect("--on-error", "raise", rows=rows)
    assert result.exit_code == 3 and "data.jsonl:7: DATA009 unknown-shape" in result.stderr
    result = inspect("--on-error", "raise", "--max-length", 4)
    assert result.exit_code == 3 and "data.jsonl:1: MASK007 truncated-away" in result.stderr


def test_inspect_gives_each_reason_its_own_cure(inspect):
    rows = [*ROWS, {"x": 1}, {"messages": [{"role": "narrator", "content": "?"}]}]
    fixes = {f["id"]: f["fix"] for f in json.loads(inspect("--json", "-", rows=rows).stdout)["findings"]}
    assert (
        "--columns prompt=" in fixes["DATA009"] and fixes["DATA013"] == "use the roles user, assistant, system and tool"
    )


@pytest.mark.parametrize(("fail_on", "code"), [("never", 0), ("warning", 1), ("error", 0)])
def test_inspect_fails_on_findings_when_asked(inspect, fail_on, code):
    rows = [*ROWS, asked("what?", "It<|im_end|>is")]
    assert inspect("--fail-on", fail_on, rows=rows).exit_code == code


def test_inspect_json_is_json_alone(inspect):
    document = json.loads(inspect("--json", "-").stdout)
    assert [section["id"] for section in document["sections"]][:3] == ["answer", "trained", "totals"]


def test_inspect_writes_where_asked_and_never_over_a_report(inspect, tmp_path):
    out, page = tmp_path / "out", tmp_path / "page.md"
    assert inspect("--output", out, "--markdown", page).exit_code == 0
    assert json.loads((out / "report.json").read_text())["title"] and page.read_text().startswith("# ")
    assert (out / "report.html").read_text().startswith("<!")
    again = inspect("--output", out)
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    assert inspect("--output", out, "--overwrite").exit_code == 0


def test_dry_run_shows_options_and_counts_and_writes_nothing(inspect, tmp_path):
    words = ("--output", tmp_path / "out", "--json", tmp_path / "r.json", "--markdown", tmp_path / "r.md")
    result = inspect("--dry-run", "--batch-size", 4, "--examples", 2, *words)
    assert result.exit_code == 0, result.stderr
    assert "batch-size: 4" in result.stdout and "micro-batches per epoch" in result.stdout
    assert result.stdout.count("R> [") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_inspect_names_columns_and_cuts(inspect):
    rows = [{"q": f"copy {i}", "a": "x" * 40} for i in range(4)]
    result = inspect("--columns", "prompt=q,response=a", "--max-length", 30, rows=rows)
    assert "MASK007" in result.stdout and "4 of 4 rows (100 %) are truncated" in " ".join(result.stdout.split())


def test_inspect_takes_a_template_from_a_file(inspect, tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}")
    shown = " ".join(inspect("--template", template).stdout.split())
    assert "without generation tags" in shown
    assert inspect("--template", tmp_path / "none").exit_code == 2


def test_inspect_obeys_nothing_in_the_data(inspect, tmp_path):
    page = tmp_path / "out"
    result = inspect("--output", page, rows=[asked(HOSTILE, HOSTILE + str(i)) for i in range(3)])
    assert result.exit_code == 0, result.stderr
    assert not [c for c in result.stdout if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 or c == "\u202e"]
    assert "[bold]rich[/bold]" in " ".join(result.stdout.split("\n"))
    assert "<script>alert" not in (page / "report.html").read_text()


def shown(strip: TokenStrip, **options: object) -> str:
    from rich.console import Console

    file = io.StringIO()
    render_mask([strip], Console(file=file, width=100, legacy_windows=False, **options))  # type: ignore[arg-type]
    return file.getvalue()


STRIP = TokenStrip("a:1", ("weight",), ("hi", "yes", "half"), ("prompt", "response", "response"), ((0.0, 1.0, 0.5),))


def test_mask_on_a_terminal_is_green_and_dim():
    text = shown(STRIP, color_system="standard", force_terminal=True)
    assert "\x1b[2mhi" in text and "\x1b[1;32myes" in text and "\x1b[32mhalf" in text
    assert "[yes" not in text


def test_mask_without_colour_is_in_brackets(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = shown(STRIP, color_system="standard", force_terminal=True)
    assert "[yeshalf]" in text and "\x1b[32m" not in text and "\x1b[2m" not in text


def test_mask_marks_a_change_of_role_by_its_letter():
    assert "P> hi\nR> [yeshalf]" in shown(STRIP, color_system=None)


@pytest.mark.parametrize(("name", "count"), FILES.items())
def test_inspect_of_a_real_file_uses_every_row_and_raises_no_mask_fault(inspect, name, count):
    if not (REAL / name).exists():
        pytest.skip(f"{name} is not in ../shared/data, it is not ours to ship")
    count = min(count, 300)
    document = json.loads(
        inspect("--json", "-", "--max-examples", 300, "--max-length", 100_000, data=REAL / name).stdout
    )
    assert document["headlines"][0].startswith(f"{count:,} of {count:,} rows")
    asking = {f["id"] for f in document["findings"] if f["severity"] != "info"}
    # copies and placeholders are in the files; the bundled template has no place for tools, its model a short context
    assert asking <= {"DATA102", "DATA107", "DATA111", "DATA112"}
