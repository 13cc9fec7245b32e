"""`sftloss lengths`: from files to predicted lengths, with and without a tokenizer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from tests.cli.tools import MODEL, run, write_rows
from tests.paths import REAL_DATA as REAL

from sftloss.config import resolve
from sftloss.data.demo import demo_tokenizer
from sftloss.errors import DataError
from sftloss.pipeline import lengths as predict

WORDS = [1, 2, 3, 5, 8, 13, 21, 34]


def asked(question: str, answer: str, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def repeated(prompts: int = 10, **more: object) -> list[dict[str, object]]:
    """Eight answers of different length to every prompt."""
    return [asked(f"question {p}", " ".join(["ab"] * n), **more) for p in range(prompts) for n in WORDS]


@pytest.fixture
def lengths(tmp_path):
    """`sftloss lengths` on rows."""

    def call(*words: object, rows: list[dict[str, object]] | None = None):
        data = write_rows(tmp_path / "data.jsonl", repeated() if rows is None else rows)
        return run("lengths", "--data", data, *words)

    return call


def table(result, id: str = "length-forecast") -> dict[str, dict[str, object]]:
    """Rows of a table of the JSON on stdout, by their first cell."""
    assert result.exit_code == 0, result.stderr
    tables = [t for section in json.loads(result.stdout)["sections"] for t in section["tables"] if t["id"] == id]
    keys = [column["key"] for column in tables[0]["columns"]]
    return {row[0]: dict(zip(keys, row, strict=True)) for row in tables[0]["rows"]}


def test_lengths_counts_words_and_predicts_their_harmonic_mean(lengths):
    rows = table(lengths("--unit", "words", "--json", "-"))
    assert rows["token mean"]["bound"] == pytest.approx(np.mean(WORDS))
    assert rows["example mean"]["bound"] == pytest.approx(stats.hmean(WORDS))
    assert rows["example mean"]["given_prompt"] == pytest.approx(stats.hmean(WORDS))


def test_lengths_counts_characters_where_nothing_is_said(lengths):
    rows = table(lengths("--json", "-"))
    assert rows["token mean"]["bound"] == pytest.approx(np.mean([3 * n - 1 for n in WORDS]))


def test_lengths_with_a_tokenizer_counts_the_tokens_that_are_trained(lengths):
    """Those of the answer and the end of its turn."""
    rows = table(lengths("--tokenizer", MODEL, "--json", "-"))
    tokenizer = demo_tokenizer()
    sizes = [len(tokenizer(" ".join(["ab"] * n), add_special_tokens=False).input_ids) + 1 for n in WORDS]
    assert rows["token mean"]["bound"] == pytest.approx(np.mean(sizes))
    assert rows["example mean"]["bound"] == pytest.approx(stats.hmean(sizes))


def test_lengths_agrees_with_and_without_a_tokenizer_on_who_shares_a_prompt(lengths):
    rows = [*repeated(4), *(asked(f"alone {n}", "x" * n) for n in WORDS)]
    with_tokens, without = lengths("--tokenizer", MODEL, "--json", "-", rows=rows), lengths("--json", "-", rows=rows)
    found = [json.loads(one.stdout)["findings"] for one in (with_tokens, without)]
    shares = [[f["value"] for f in one if f["id"] == "DATA103"] for one in found]
    assert shares[0] == shares[1] == [pytest.approx(32 / 40)]


def test_lengths_predicts_every_token_mean_a_step_may_take(lengths):
    rows = table(lengths("--batch-size", 2, "--grad-accum", 4, "--ranks", 8, "--json", "-"))
    names = [name for name in rows if name.startswith("token mean of")]
    assert names == [
        "token mean of 2 (micro-batch)",
        "token mean of 8 (one rank's step)",
        "token mean of 64 (whole step)",
    ]
    bounds = [rows[name]["bound"] for name in ("example mean", *names, "token mean")]
    assert bounds == sorted(bounds)


def test_lengths_takes_exponents_and_solves_for_a_mean(lengths):
    wanted = table(lengths("--unit", "words", "--normalization", 0.3, "--json", "-"))["T^-0.3"]["bound"]
    solved = table(lengths("--unit", "words", "--target-mean", wanted, "--json", "-"), "length-target")
    assert solved["at the bound"]["alpha"] == pytest.approx(0.3, abs=1e-6)
    assert solved["within prompts"]["alpha"] == pytest.approx(0.3, abs=1e-6)


def test_lengths_says_that_data_without_repeated_prompts_cannot_tell(lengths):
    result = lengths(rows=[asked(f"question {n}", "x" * n) for n in range(1, 60)])
    assert result.exit_code == 0
    assert "cannot tell: no prompt has two answers" in " ".join(result.stdout.split())


def test_lengths_writes_what_it_is_asked_to_and_replaces_nothing(lengths, tmp_path):
    made = (tmp_path / "out", tmp_path / "a.json", tmp_path / "a.md")
    words = [w for flag, path in zip(("--output", "--json", "--markdown"), made, strict=True) for w in (flag, path)]
    result = lengths(*words)
    assert result.exit_code == 0 and "report.html" in result.stderr
    pages = [(made[0] / "report.html"), (made[0] / "report.json"), made[1], made[2]]
    before = [page.read_bytes() for page in pages]
    assert before[1] == before[2] and b"sftloss lengths --data" in before[1]
    assert lengths(*words).exit_code == 2
    assert lengths(*words, "--overwrite").exit_code == 0
    assert [page.read_bytes() for page in pages][0] != b""


def test_lengths_gives_the_same_bytes_again_and_other_intervals_for_another_seed(lengths):
    # prompts that differ: of equal ones there is nothing to resample
    rows = [asked(f"question {p}", " ".join(["ab"] * (n + p))) for p in range(40) for n in WORDS]
    first, again = (lengths("--json", "-", rows=rows) for _ in range(2))
    other = lengths("--json", "-", "--seed", 5, rows=rows)
    assert first.stdout == again.stdout
    assert table(first)["sqrt"]["bound"] == table(other)["sqrt"]["bound"]
    assert table(first)["sqrt"]["bound_low"] != table(other)["sqrt"]["bound_low"]


@pytest.mark.parametrize(
    "words, said",
    [
        (("--unit", "words", "--tokenizer", MODEL), "--unit: a tokenizer counts tokens"),
        (("--max-length", 8), "--max-length: only changes tokens; give a --tokenizer"),
        (("--thinking", "drop"), "--thinking: only changes tokens; give a --tokenizer"),
        (("--chat-template-kwargs", "a=b"), "--chat-template-kwargs: only changes tokens"),
        (("--ranks", 2), "need --batch-size"),
        (("--target-mean", -1), "--target-mean: must be a positive length"),
        (("--normalization", "mean"), "--normalization: 'mean' is none of"),
        (("--normalization", 99), "within 20 of 0"),
        (("--unit", "bytes"), "--unit"),
    ],
)
def test_lengths_refuses_what_contradicts_itself_with_exit_code_2(lengths, words, said):
    result = lengths(*words)
    assert result.exit_code == 2 and said in result.stderr and result.stdout == ""


def test_lengths_of_a_file_that_is_not_there_is_exit_code_3(tmp_path):
    assert run("lengths", "--data", tmp_path / "none.jsonl").exit_code == 3


def test_lengths_fails_on_a_warning_where_asked_to(lengths):
    words = ("--normalization", "example-mean", "--fail-on", "warning")
    assert lengths(*words).exit_code == 1 and lengths(*words[:2]).exit_code == 0


def test_lengths_prints_options_that_give_the_same_run(lengths, tmp_path):
    from sftloss.cli.verbs.lengths import LengthsOptions

    printed = lengths("--batch-size", 4, "--normalization", 0.3, "--columns", "prompt=q", "--print-config")
    (tmp_path / "c.yaml").write_text(printed.stdout)
    options = resolve(LengthsOptions, {}, config=tmp_path / "c.yaml")
    assert (options.step.batch_size, options.normalization, options.data.columns) == (4, ("0.3",), {"prompt": "q"})


def test_lengths_names_the_rows_it_cannot_read(lengths):
    result = lengths("--json", "-", rows=[*repeated(), {"nonsense": 1}])
    assert any("81" in "".join(finding["rows"]) for finding in json.loads(result.stdout)["findings"])


def predicted(rows, **more):
    document = predict(rows, **more).document
    cells = document.sections[0].tables[0]
    return dict(zip([column.key for column in cells.columns], cells.rows[0], strict=True))["bound"]


@pytest.mark.parametrize("tokenizer", [None, demo_tokenizer()], ids=["characters", "tokens"])
def test_a_row_of_weight_two_counts_as_two_rows(tokenizer):
    """T leaves the weight of the row out, with a tokenizer or without, and the answers count by it."""
    short, long = asked("one", "fig"), asked("two", "fig fig fig red")
    weighted, twice = predict([{**short, "weight": 2}, long], tokenizer), predict([short, short, long], tokenizer)
    tables = [report.document.sections[0].tables[0].rows for report in (weighted, twice)]
    assert tables[0] == tables[1]


def test_a_message_of_weight_zero_has_no_length():
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "skipped", "weight": 0},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "four"},
    ]
    assert predicted([{"messages": turns}]) == 4
    turns[1]["weight"] = 1  # both answers count, each with its own length
    assert predicted([{"messages": turns}]) == (7 + 4) / 2


def test_conversations_share_a_prompt_when_all_before_the_last_answer_is_the_same():
    def talk(second: str, answer: str) -> dict[str, object]:
        words = (("user", "hi"), ("assistant", "yes?"), ("user", second), ("assistant", answer))
        return {"messages": [{"role": role, "content": content} for role, content in words]}

    same, other = ([talk(second, "x" * 9), talk("a", "y")] for second in "ab")
    assert [finding.id for finding in predict(same).document.findings if "DATA" in finding.id] == ["DATA103"]
    assert not [finding.id for finding in predict(other).document.findings if "DATA" in finding.id]


def test_calls_and_reasoning_are_part_of_the_answer():
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ab", "tool_calls": [call]}]
    assert predicted([{"messages": turns}]) > 10


def test_pre_tokenised_rows_are_counted_in_tokens_without_a_tokenizer():
    rows = [{"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}, {"input_ids": [5, 6, 9], "labels": [5, 6, 9]}]
    report = predict(rows)
    # the first token of a row is never predicted
    assert predicted(rows) == 2 and dict(report.document.facts)["lengths count"] == "tokens"
    with pytest.raises(DataError, match="counts characters, those before it tokens"):
        predict([*rows, asked("q", "a")])


def test_lengths_with_a_task_shows_it_given_the_task(lengths):
    rows = [*repeated(4, task="a"), *(asked(f"alone {n}", "xy" * n, task="b") for n in WORDS)]
    found = table(lengths("--json", "-", rows=rows))["example mean"]
    assert found["bound"] < found["given_task"] < found["given_prompt"]


@pytest.mark.parametrize(
    "name, count", [("alpaca_en_demo.json", 999), ("glaive_toolcall_en_demo.json", 300), ("gsm8k_train.jsonl", 7473)]
)
def test_lengths_of_real_data_are_bounded_by_the_shortest_and_the_mean(name, count):
    if not (REAL / name).exists():
        pytest.skip(f"{name} is not there")
    result = run("lengths", "--data", REAL / name, "--unit", "words", "--batch-size", 4, "--json", "-")
    rows = table(result)
    assert dict(json.loads(result.stdout)["facts"])["examples"] == f"{count:,}"
    order = [rows[n]["bound"] for n in ("example mean", "token mean of 4 (whole step)", "token mean")]
    assert order == sorted(order) and order[0] > 0


def test_a_report_in_chinese_has_the_keys_of_the_english_one(lengths, monkeypatch):
    english, chinese = (json.loads(lengths("--json", "-", *lang).stdout) for lang in ((), ("--lang", "zh")))
    assert (english["language"], chinese["language"]) == ("en", "zh") and chinese["title"] == "各种标准化下的输出长度"
    assert [section["id"] for section in english["sections"]] == [section["id"] for section in chinese["sections"]]
    monkeypatch.setenv("SFTLOSS_LANG", "zh")
    assert "检查结果" in lengths().stdout and "Findings" in lengths("--lang", "en").stdout
    monkeypatch.setenv("SFTLOSS_LANG", "fr")
    assert "SFTLOSS_LANG is 'fr'; set it to en or zh" in " ".join(lengths().stderr.split())


def test_a_row_without_a_file_is_named_by_its_number():
    rows = [{"prompt": "q", "response": "a" * n} for n in (1, 2, 3)]
    findings = predict(rows).document.findings
    assert [finding.rows for finding in findings if finding.id == "DATA103"] == [("row 0", "row 1", "row 2")]
